"""Rows of filter bits, and evolution inside a part."""

import json

import numpy as np
import pytest

from hwprune.search.filters import BitEncoding, FilterBits, RatioEncoding
from hwprune.search.subsearch import LocalFront, evolve

SCORES = (np.array([3.0, 1.0, 2.0, 4.0]), np.linspace(0, 1, 8))


@pytest.fixture
def filters():
    return FilterBits(SCORES, np.array([1, 2]))


def test_ranked_rows_keep_the_most_important(filters):
    rows = filters.ranked(np.array([[0.5, 0.25], [0.0, 0.0], [1.0, 1.0]]))
    assert filters.kept(rows[0]) == [(0, 3), (6, 7)]
    assert filters.kept(rows[1]) == [(3,), (6, 7)]  # as few as may be
    assert rows[2].all()
    assert filters.widths(rows).tolist() == [[2, 2], [1, 2], [4, 8]]


def test_repair_gives_back_the_most_important_of_what_was_dropped(filters):
    row = np.zeros((1, 12), bool)
    row[0, 4] = True  # the least important of the second group
    assert filters.kept(filters.repaired(row)[0]) == [(3,), (0, 7)]


@pytest.mark.parametrize("crossover", ["uniform", "one_point"])
def test_children_have_only_what_a_parent_has_but_for_mutations(crossover):
    filters = FilterBits(SCORES, np.array([0, 0]))
    encoding = BitEncoding(filters, crossover, cx_prob=1.0, flip_prob=0.0)
    generator = np.random.default_rng(0)
    A, B = generator.random((2, 30, 12)) < 0.5
    one, other = np.split(encoding.vary(A, B, generator), 2)
    assert ((one == A) & (other == B) | (one == B) & (other == A)).all()
    assert (one != A).any()


@pytest.mark.parametrize("encoding", [BitEncoding, RatioEncoding])
def test_start_has_the_unpruned_and_keeps_enough_of_every_group(filters, encoding):
    made = encoding(filters)
    bits = made.decode(made.start(20, np.random.default_rng(0)))
    assert bits.shape == (20, 12)
    assert bits[0].all()
    assert (filters.widths(bits) >= filters.min_kept).all()


@pytest.mark.parametrize("encoding", [BitEncoding, RatioEncoding])
def test_search_finds_the_front_of_a_problem_that_can_be_enumerated(encoding):
    scores = (np.array([5.0, 1.0, 3.0, 2.0, 4.0, 0.5]),)
    filters, asked = FilterBits(scores, np.array([1])), []

    def objectives(bits):
        asked.extend(row.tobytes() for row in bits)
        return np.column_stack([(~bits) @ scores[0], bits.sum(axis=1)]).astype(float)

    front = evolve(encoding(filters), objectives, pop_size=8, evaluations=60, random_state=np.random.default_rng(0))
    # Dropping the least important first is best at every size.
    losses = np.concatenate([[0], np.cumsum(np.sort(scores[0]))[:-1]])
    assert front.F.tolist() == [[loss, 6 - count] for count, loss in enumerate(losses)]
    assert len(asked) == len(set(asked)) <= 60


def test_search_stops_where_it_is_told_to(filters):
    calls = []

    def objectives(bits):
        calls.append(len(bits))
        return bits.sum(axis=1, keepdims=True).astype(float) * [1, -1]

    evolve(
        BitEncoding(filters),
        objectives,
        pop_size=5,
        evaluations=10**6,
        random_state=np.random.default_rng(0),
        may_go_on=lambda: len(calls) < 3,
    )
    assert len(calls) == 3


def test_front_survives_json():
    front = LocalFront(np.random.default_rng(0).random((3, 12)) < 0.5, np.arange(6.0).reshape(3, 2))
    again = LocalFront.from_dict(json.loads(json.dumps(front.as_dict())))
    assert np.array_equal(again.bits, front.bits)
    assert np.array_equal(again.F, front.F)
