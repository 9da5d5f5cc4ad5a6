"""Every config that is shipped can be used as it is."""

import inspect
from pathlib import Path

import pytest

from device_agents.registry import Registry
from hwprune import plugins
from hwprune.compilation.targets import CpuTarget
from hwprune.config import load_method_settings, load_problem
from hwprune.objectives import find
from hwprune.search import methods

CONFIGS = Path(__file__).parents[2] / "configs"
PROBLEMS = sorted((CONFIGS / "problems").glob("*.yaml"))
METHODS = sorted((CONFIGS / "methods").glob("*.yaml"))
DEVICES = Registry(CONFIGS / "devices")

for_every_problem = pytest.mark.parametrize("path", PROBLEMS, ids=lambda path: path.stem)
for_every_method = pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)


@for_every_problem
def test_problem_is_valid_and_names_what_exists(path: Path) -> None:
    problem, _ = load_problem(path)
    for package, spec in (("networks", problem.network), ("datasets", problem.data), ("tasks", problem.task)):
        build = plugins.load(f"hwprune.{package}", spec["name"]).build
        assert set(spec) - {"name"} <= set(inspect.signature(build).parameters)
    assert all(find(name).name == name for name in problem.objectives)


@for_every_problem
def test_problem_says_how_it_is_run(path: Path) -> None:
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"hwprune search configs/problems/{path.name} --device local" in comment


@for_every_problem
def test_resolved_problem_reads_back_as_itself(path: Path, tmp_path: Path) -> None:
    problem, _ = load_problem(path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(problem.to_yaml())
    assert load_problem(resolved)[0] == problem


@for_every_method
def test_method_file_lists_the_defaults_of_an_existing_method(path: Path) -> None:
    defaults = methods.defaults(path.stem)
    assert load_method_settings(path, defaults) == defaults


def test_every_method_has_its_file() -> None:
    assert {path.stem for path in METHODS} == set(plugins.names("hwprune.search.methods"))


@pytest.mark.parametrize("name", DEVICES.names())
def test_device_can_be_compiled_for_and_says_whether_it_was_ever_run(name: str) -> None:
    device = DEVICES.get(name)
    assert device.platform == ("arm" if device.target["mtriple"].startswith("aarch64") else "cpu")
    assert CpuTarget.from_dict(device.target, device.threads).name
    comment = " ".join((CONFIGS / "devices" / f"{name}.yaml").read_text().splitlines()[:5])
    assert ("Never run here" in comment) != ("Run there by the tests" in comment)
    assert device.ssh is not None
    assert f"hwprune device add {name} --ssh {device.ssh.address}" in comment


def test_quickstart_solves_the_problem_of_its_file() -> None:
    from hwprune.config import Problem
    from hwprune.experiments.quickstart import PROBLEM

    problem, _ = load_problem(CONFIGS / "problems" / "digits-resnet20.yaml")
    assert Problem.model_validate({**PROBLEM, "weights": problem.weights}) == problem
