"""``hwprune compare`` from finished runs, without any device."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hwprune.cli.app import root

MakeRun = Callable[..., Path]
ROWS = (("dense", 1.0, 0.9, 4000), ("p00", 0.4, 0.87, 1000), ("p01", 0.6, 0.89, 2000))


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        options = ["--home", tmp_path / "home", "compare", "--out", tmp_path / "out", *arguments]
        return CliRunner().invoke(root, [str(option) for option in options])

    return run


def test_json_has_the_promised_keys(make_run: MakeRun, compare: Callable[..., Result]) -> None:
    ended = compare(make_run("one", ROWS), make_run("two", ROWS[:2]), "--no-measure", "--json")
    assert ended.exit_code == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert {"hv", "regret", "conditions_differ", "ref_point", "picks", "runs", "files"} <= said.keys()
    assert said["regret"]["one"]["local"]["regret"] == 0
    assert said["regret"]["two"]["local"]["regret"] == pytest.approx(1 / 0.6 - 1)  # nobody there but the dense network
    assert all(Path(file).is_file() for file in said["files"])


def test_people_get_tables_and_reasons(make_run: MakeRun, compare: Callable[..., Result]) -> None:
    other = make_run("two", ROWS, device="pi4", fingerprint="e" * 64)
    ended = compare(make_run("one", ROWS), other, "--no-measure")
    assert ended.exit_code == 0, ended.stderr
    assert "p01 of one was not measured here: --measure does" in ended.stdout
    assert "600.0 us (+0.0%)" in ended.stdout
    assert "condition that differs" in ended.stdout
    assert "error 0.143" in ended.stdout  # the reference point: 1.1 * (1 - 0.87)
    assert "compare.html" in ended.stderr


def test_a_larger_drop_changes_the_picks(make_run: MakeRun, compare: Callable[..., Result]) -> None:
    ended = compare(make_run("one", ROWS), make_run("two", ROWS), "--no-measure", "--json", "--max-drop", 3)
    assert json.loads(ended.stdout)["picks"]["one"]["point"] == "p00"


def test_runs_of_different_networks_end_with_two_and_one_line(
    make_run: MakeRun, compare: Callable[..., Result], tmp_path: Path
) -> None:
    ended = compare(make_run("one"), make_run("two", network="vgg_cifar (depth 14)"))
    assert ended.exit_code == 2
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "different networks" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_one_run_alone_is_no_comparison(make_run: MakeRun, compare: Callable[..., Result]) -> None:
    ended = compare(make_run("one"))
    assert ended.exit_code == 2
    assert "name two runs or more" in ended.stderr


def test_a_folder_that_is_no_run_ends_with_one(
    make_run: MakeRun, compare: Callable[..., Result], tmp_path: Path
) -> None:
    ended = compare(make_run("one"), tmp_path)
    assert ended.exit_code == 1
    assert "is not a run" in ended.stderr
