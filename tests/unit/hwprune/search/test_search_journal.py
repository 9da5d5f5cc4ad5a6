import json
import os
from pathlib import Path

import pytest

from hwprune.errors import RunError
from hwprune.records import Evaluation
from hwprune.search.journal import Journal

GOOD = Evaluation("a", (8, 4), {"error": 0.1, "latency": 1.25}, 0.9, "initial", 0, 0.5)
FAILED = Evaluation("b", (4, 4), {}, None, "offspring", 1, 0.1, "CompileError: no kernel")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "run" / "archive.jsonl")
    journal.add_evaluation(GOOD)
    journal.add_refinement(1, {"networks": [{"latency_ms": 1.5}]})
    journal.add_evaluation(FAILED)
    journal.close()
    return tmp_path / "run" / "archive.jsonl"


def test_records_read_back_as_they_were_written(path: Path) -> None:
    journal = Journal(path)
    assert len(journal) == 2
    assert journal.evaluation("a") == GOOD
    assert journal.evaluation("b") == FAILED
    assert journal.evaluation("c") is None
    assert journal.refinement(1) == {"networks": [{"latency_ms": 1.5}]}
    assert journal.refinement(2) is None


def test_every_record_is_one_json_line_on_disk_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "archive.jsonl")
    journal.add_evaluation(GOOD)
    (line,) = (tmp_path / "archive.jsonl").read_text().splitlines()
    assert json.loads(line)["plan_key"] == "a"
    journal.close()


@pytest.mark.parametrize("lost", [1, 5, 40])
def test_torn_last_line_is_dropped_and_writing_goes_on(path: Path, lost: int) -> None:
    os.truncate(path, path.stat().st_size - lost)
    journal = Journal(path)
    assert journal.evaluation("b") is None
    journal.add_evaluation(FAILED)
    journal.close()
    assert Journal(path).evaluation("b") == FAILED


@pytest.mark.parametrize(
    "line", ["not json", '{"kind": "party"}', '{"no": "kind"}', "[1]", "7", '{"kind":"evaluation"}']
)
def test_damaged_line_names_file_and_line(path: Path, line: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(RunError, match=r"archive\.jsonl, line 2"):
        Journal(path)


def test_unwritable_journal_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="--resume"):
        Journal(tmp_path / "file" / "archive.jsonl").add_evaluation(GOOD)


def test_journal_in_memory_writes_nothing() -> None:
    journal = Journal()
    journal.add_evaluation(GOOD)
    assert journal.evaluation("a") == GOOD
