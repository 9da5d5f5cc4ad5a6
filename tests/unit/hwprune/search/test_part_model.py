"""A model of a part's error, and what it proposes to evaluate."""

import moocore
import numpy as np
import pytest

from hwprune.search.filters import FilterBits, RatioEncoding
from hwprune.search.part_model import PartModel, Proposer
from hwprune.search.subsearch import evolve

GROUPS, UNITS = 6, 16
#: How much a group's loss harms: an order of magnitude between the first and the last.
HARM = np.geomspace(0.02, 0.4, GROUPS)


@pytest.fixture
def filters():
    generator = np.random.default_rng(5)
    return FilterBits(tuple(generator.random(UNITS) + 0.1 for _ in range(GROUPS)), np.ones(GROUPS, np.int64))


def errors_of(filters, bits):
    dropped = 1 - filters.widths(bits) / UNITS
    return 0.1 + 0.8 * np.tanh(dropped**1.5 @ HARM)


def costs_of(filters, bits):
    return filters.widths(bits).sum(axis=1, keepdims=True) / (GROUPS * UNITS)


def test_model_knows_which_groups_harm(filters):
    encoding, generator = RatioEncoding(filters), np.random.default_rng(0)
    bits = encoding.decode(encoding.start(40, generator))
    model = PartModel(filters).fit(bits, errors_of(filters, bits), 0.5)
    others = encoding.decode(encoding.start(200, np.random.default_rng(1)))
    off = np.abs(model.predict(others) - errors_of(filters, others))
    assert np.median(off) < 0.01
    alone = filters.ranked(1 - 0.5 * np.eye(GROUPS))
    assert np.argsort(model.predict(alone)).tolist() == list(range(GROUPS))


def test_proposals_are_new_and_within_what_is_of_interest(filters):
    encoding, generator = RatioEncoding(filters), np.random.default_rng(0)
    bits = encoding.decode(encoding.start(30, generator))
    F = np.column_stack([errors_of(filters, bits), costs_of(filters, bits)])
    proposed = Proposer(filters, encoding, lambda rows: costs_of(filters, rows), 0.3)(bits, F, 8, generator)
    assert len(proposed) == 8
    known = {row.tobytes() for row in bits}
    assert not known & {row.tobytes() for row in proposed}
    assert errors_of(filters, proposed).max() < 0.33
    assert (filters.widths(proposed) >= 1).all()


def test_proposals_find_more_of_the_front_than_variation_does(filters):
    encoding = RatioEncoding(filters)

    def objectives(bits):
        return np.column_stack([errors_of(filters, bits), costs_of(filters, bits)])

    def volume(propose, seed):
        front = evolve(
            encoding, objectives, pop_size=18, evaluations=60, random_state=np.random.default_rng(seed), propose=propose
        )
        return moocore.hypervolume(front.F, ref=np.array([0.4, 1.0]))

    proposer = Proposer(filters, encoding, lambda rows: costs_of(filters, rows), 0.4)
    for seed in range(3):
        assert volume(proposer, seed) > 1.03 * volume(None, seed)
