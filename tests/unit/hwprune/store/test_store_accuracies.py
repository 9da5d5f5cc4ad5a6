"""What candidates score is found again under equal conditions, whoever asks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hwprune.store import Accuracies, Accuracy, Store

FACTS = {"weights": "abc", "split": "val", "dtype": "bfloat16"}


@pytest.fixture
def accuracies(tmp_path: Path) -> Iterator[Accuracies]:
    with Store.open(tmp_path / "store.db", tmp_path / "artifacts") as store:
        yield store.accuracies


def test_an_accuracy_is_found_under_its_own_protocol_only(accuracies: Accuracies) -> None:
    found = Accuracy("plan", (3, 4), 0.9)
    accuracies.add(FACTS, [found])
    assert accuracies.find(FACTS, ["plan", "other"]) == {"plan": found}
    assert accuracies.find(dict(reversed(FACTS.items())), ["plan"]) == {"plan": found}
    for fact in FACTS:
        assert accuracies.find({**FACTS, fact: "another"}, ["plan"]) == {}


def test_the_one_on_most_images_is_served(accuracies: Accuracies) -> None:
    half, whole, few = Accuracy("plan", (3,), 0.7, 500), Accuracy("plan", (3,), 0.8), Accuracy("plan", (3,), 0.6, 250)
    accuracies.add(FACTS, [half, few])
    assert accuracies.find(FACTS, ["plan"]) == {"plan": half}
    accuracies.add(FACTS, [whole])
    accuracies.add(FACTS, [few])
    assert accuracies.find(FACTS, ["plan"]) == {"plan": whole}
    assert accuracies.all(FACTS) == [whole]


def test_all_are_told_once_each_in_the_order_of_their_first_appearance(accuracies: Accuracies) -> None:
    accuracies.add(FACTS, [Accuracy(key, (number,), 0.5) for number, key in enumerate("cab")])
    accuracies.add(FACTS, [Accuracy("c", (0,), 0.5)])
    accuracies.add({**FACTS, "dtype": "float32"}, [Accuracy("d", (9,), 0.5)])
    assert [each.plan_key for each in accuracies.all(FACTS)] == ["c", "a", "b"]


def test_many_plans_are_asked_for_at_once(accuracies: Accuracies) -> None:
    many = [Accuracy(f"{number:064}", (number,), number / 5000) for number in range(1, 2001)]
    accuracies.add(FACTS, many)
    assert accuracies.find(FACTS, [each.plan_key for each in many]) == {each.plan_key: each for each in many}


def test_processes_that_share_a_store_enter_a_protocol_once(tmp_path: Path) -> None:
    with (
        Store.open(tmp_path / "store.db", tmp_path / "artifacts") as one,
        Store.open(tmp_path / "store.db", tmp_path / "artifacts") as other,
    ):
        one.accuracies.add(FACTS, [Accuracy("a", (1,), 0.5)])
        other.accuracies.add(FACTS, [Accuracy("b", (2,), 0.6)])
        assert [each.plan_key for each in one.accuracies.all(FACTS)] == ["a", "b"]
