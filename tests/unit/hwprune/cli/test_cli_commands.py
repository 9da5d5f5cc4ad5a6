import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from hwprune.cli.app import root
from hwprune.config import Problem

MINIMAL = "network: {name: resnet_cifar, depth: 20}\ndata: digits\n"


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    path = tmp_path / "problem.yaml"
    path.write_text(MINIMAL)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(root, [str(argument) for argument in arguments])


def test_config_check_prints_the_resolved_problem(problem: Path) -> None:
    result = run("config", "check", problem, "--set", "seed=3")
    assert result.exit_code == 0
    assert Problem.model_validate(yaml.safe_load(result.stdout) | {"training": {}, "finetune": {}}).seed == 3
    assert json.loads(run("config", "check", problem, "--json").stdout)["network"]["depth"] == 20


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("network.name=resnet_cifer", "did you mean 'resnet_cifar'?"),
        ("data.name=digit", "did you mean 'digits'?"),
        ("task=clasification", "did you mean 'classification'?"),
        ("objectives=[error, latncy]", "did you mean 'latency'?"),
        ('constraints={latency_us: "<= 3"}', "unknown objective 'latency_us'"),
        ("network=no.such.module:build", "'no.such.module:build' cannot be imported"),
        ("prunning.round_to=8", "did you mean 'pruning"),
    ],
)
def test_config_check_refuses_unknown_names_with_two(problem: Path, override: str, said: str) -> None:
    result = run("config", "check", problem, "--set", override)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_config_schema_is_json_schema() -> None:
    schema = json.loads(run("config", "schema").stdout)
    assert schema["additionalProperties"] is False
    assert "network" in schema["required"]


def test_report_prints_table_and_json(run_folder: Path) -> None:
    table = run("report", run_folder)
    assert table.exit_code == 0
    assert table.stdout.splitlines()[0].split()[:3] == ["id", "val_top1", "test_top1"]
    assert len(table.stdout.splitlines()) == 3
    assert "p1 is apart from the front" in table.stderr
    assert (run_folder / "report.html").is_file()
    data = json.loads(run("report", run_folder, "--json").stdout)
    assert [row["id"] for row in data["rows"]] == ["dense", "p0"]
    assert data["verdict"].startswith("Point p0 is 2.00 times faster")


def test_report_of_something_else_ends_with_one(tmp_path: Path) -> None:
    result = run("report", tmp_path)
    assert result.exit_code == 1
    assert "is not a run" in result.stderr


def test_search_refuses_unknown_method_and_setting_before_anything_runs(problem: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (["--method", "hmp"], "unknown method 'hmp'"),
        (["--method", "nsga2", "--set", "pop_sise=20"], "did you mean 'pop_size'?"),
        (["--method", "nsga2", "--set", "pop_size=many"], "pop_size"),
        (["--method", "nsga2", "--set", "seed=many"], "'seed' should be a valid integer"),
    ):
        result = run("--home", tmp_path / "home", "search", problem, "--runs", tmp_path / "runs", *arguments)
        assert result.exit_code == 2, arguments
        assert said in result.stderr
    assert not (tmp_path / "runs").exists()


def test_search_reads_the_settings_file_beside_the_problems(problem: Path, tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "problems"
    folder.mkdir(parents=True)
    (folder.parent / "methods").mkdir()
    (folder.parent / "methods" / "nsga2.yaml").write_text("popsize: 3\n")
    path = problem.rename(folder / "problem.yaml")
    result = run("search", path, "--method", "nsga2")
    assert result.exit_code == 2
    assert "unknown setting 'popsize': did you mean 'pop_size'?" in result.stderr


def test_resume_of_something_else_ends_with_one(tmp_path: Path) -> None:
    result = run("search", "--resume", tmp_path)
    assert result.exit_code == 1
    assert "is not a run" in result.stderr


def test_unknown_device_ends_with_three(tmp_path: Path) -> None:
    result = run("--home", tmp_path, "device", "show", "nowhere")
    assert result.exit_code == 3
    assert "unknown device 'nowhere'" in result.stderr


def test_no_devices_is_an_empty_list(tmp_path: Path) -> None:
    result = run("--home", tmp_path, "device", "list", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert "hwprune device add local" in run("--home", tmp_path, "device", "list").stderr


def test_store_tells_what_it_holds_and_makes_room(tmp_path: Path) -> None:
    facts = json.loads(run("--home", tmp_path, "store", "info", "--json").stdout)
    assert (facts["measurements"], facts["artifacts_bytes"]) == (0, 0)
    library = tmp_path / "artifacts" / ("0" * 64 + ".so")
    library.parent.mkdir(exist_ok=True)
    library.write_bytes(b"x" * 2**21)
    assert "would remove 1 libraries" in run("--home", tmp_path, "store", "gc", "--max-mib", 1, "--dry-run").stdout
    assert library.exists()
    assert json.loads(run("--home", tmp_path, "store", "gc", "--max-mib", 1, "--json").stdout)["removed_bytes"] == 2**21
    assert not library.exists()


def test_corrupt_store_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is no database" * 100)
    result = run("--home", tmp_path, "store", "info")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "store.db" in result.stderr
