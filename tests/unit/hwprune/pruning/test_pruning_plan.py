import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.errors import ConfigError
from hwprune.pruning.plan import Group, Groups, Member, PruningPlan

KEPT = st.lists(
    st.sets(st.integers(0, 40), min_size=1).map(lambda units: tuple(sorted(units))), min_size=1, max_size=5
).map(tuple)


def two_groups() -> Groups:
    groups = []
    for name, size in (("a", 4), ("b", 3)):
        groups.append(Group(name, size, (Member(name, "out", np.arange(size)[:, None]),)))
    return Groups(tuple(groups))


@given(KEPT)
def test_a_plan_survives_json(kept):
    plan = PruningPlan(kept)
    again = PruningPlan.from_dict(json.loads(json.dumps(plan.as_dict())))
    assert again == plan
    assert again.key == plan.key


@given(KEPT, KEPT)
def test_keys_are_equal_for_equal_plans_alone(one, other):
    assert (PruningPlan(one).key == PruningPlan(other).key) == (one == other)


def test_a_key_is_a_sha256_that_never_changes():
    assert PruningPlan(((0, 1), (2,))).key == "d9fb06e2c9e6ef49b3c365f8a673452d28bd15eee96683a5fc956a6d5053ffd8"


def test_the_dense_plan_keeps_every_unit():
    plan = PruningPlan.dense(two_groups())
    assert plan.kept == ((0, 1, 2, 3), (0, 1, 2))
    assert plan.widths == (4, 3)
    plan.check(two_groups())


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (((), (0,)), "keeps at least one"),
        (((1, 0), (0,)), "sort them"),
        (((1, 1), (0,)), "without repeats"),
        (((-1, 0), (0,)), "rise from 0"),
    ],
)
def test_a_plan_without_sense_is_refused(kept, message):
    with pytest.raises(ConfigError, match=message):
        PruningPlan(kept)


@pytest.mark.parametrize(
    ("kept", "message"), [(((0,),), "for 1 groups, the network has 2"), (((0,), (3,)), "unit 3 of group 'b'")]
)
def test_a_plan_of_another_network_is_refused(kept, message):
    with pytest.raises(ConfigError, match=message):
        PruningPlan(kept).check(two_groups())


def test_a_plan_of_another_schema_is_refused():
    with pytest.raises(ConfigError, match="schema version 99"):
        PruningPlan.from_dict({"schema_version": 99, "kept": [[0]]})


def test_groups_are_a_sequence_with_their_sizes():
    groups = two_groups()
    assert [group.name for group in groups] == ["a", "b"]
    assert [group.name for group in groups[1:]] == ["b"]
    assert groups.sizes.tolist() == [4, 3]
