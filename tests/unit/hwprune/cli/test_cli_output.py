import json

import pytest

from hwprune.cli.output import emit_facts, emit_json, emit_table


def test_table_aligns_numbers_right_and_texts_left(capsys: pytest.CaptureFixture[str]) -> None:
    emit_table([{"id": "dense", "ms": 1.25}, {"id": "p0", "ms": 10}, {"id": "p1", "ms": None}])
    assert capsys.readouterr().out == "id       ms\ndense  1.25\np0       10\np1        -\n"


def test_table_without_rows_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    emit_table([])
    assert capsys.readouterr().out == ""


def test_facts_are_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    emit_facts({"name": "local", "cores": (0, 1), "ok": True, "target": {"kind": "llvm"}, "load": float("nan")})
    assert capsys.readouterr().out == "name    local\ncores   0 1\nok      yes\ntarget  kind llvm\nload    -\n"


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"nan": float("nan"), "inf": [float("inf")], "tuple": (1, 2.5)})
    assert json.loads(capsys.readouterr().out) == {"nan": None, "inf": [None], "tuple": [1, 2.5]}
