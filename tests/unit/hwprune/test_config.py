from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hwprune.config import Bound, Problem, RunConfig, load_method_settings, load_problem, parse_budget, problem_schema
from hwprune.errors import ConfigError

MINIMAL = "network: {name: resnet_cifar, depth: 20}\ndata: digits\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "problem.yaml"
    path.write_text(text)
    return path


def complaint(folder: Path, text: str, *overrides: str, **settings: object) -> str:
    """The one-line message that a config earns."""
    with pytest.raises(ConfigError) as caught:
        load_problem(write(folder, text), overrides, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{folder}/", "")


def test_minimal_problem_takes_the_defaults(tmp_path: Path) -> None:
    problem, settings = load_problem(write(tmp_path, MINIMAL))
    assert problem.network == {"name": "resnet_cifar", "depth": 20}
    assert problem.data == {"name": "digits"}
    assert problem.task == {"name": "classification"}
    assert problem.objectives == ["error", "latency", "peak_memory"]
    assert (problem.pruning.round_to, problem.pruning.criterion, problem.batch_size) == ("auto", "l2_norm", 1)
    assert problem.latency_source == "model"
    assert settings == {}


def test_every_key_of_the_issue_is_read(tmp_path: Path) -> None:
    text = """
network: {name: resnet_cifar, depth: 56}
weights: path/to/weights.pt
task: classification
data: {name: image_folder, path: path/to/cifar10, val_images: 1000, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}
pruning: {prune_residual: false, round_to: auto, criterion: l2_norm, protect: []}
objectives: [error, latency, peak_memory]
constraints: {latency_ms: "<= 1.2"}
batch_size: 1
budget: {evaluations: 200}
seed: 0
"""
    problem, _ = load_problem(write(tmp_path, text))
    assert problem.constraints == {"latency_ms": Bound(1.2)}
    assert problem.data["mean"] == [0.5, 0.5, 0.5]
    assert problem.weights == "path/to/weights.pt"


def test_resolved_yaml_reads_back_as_the_same_problem(tmp_path: Path) -> None:
    problem, _ = load_problem(
        write(tmp_path, MINIMAL + 'constraints: {latency_ms: "<=1e-1"}\npruning: {round_to: 8}\n')
    )
    again, _ = load_problem(write(tmp_path, problem.to_yaml()))
    assert again == problem


def test_run_config_reads_back_as_the_same(tmp_path: Path) -> None:
    problem, _ = load_problem(write(tmp_path, MINIMAL))
    config = RunConfig(problem=problem, device="local", method="hamp", method_settings={"pop_size": 20})
    assert RunConfig.load(write(tmp_path, config.to_yaml())) == config


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_bound_survives_being_written(value: float) -> None:
    assert Bound.parse(str(Bound(value))) == Bound(value)


@pytest.mark.parametrize("text", [">= 1", "1.2", "<=", "<= fast", "<= nan", "<= inf", 1.2, None])
def test_bound_that_is_no_upper_bound_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="<= NUMBER"):
        Bound.parse(text)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("prunning: {}", "problem.yaml, line 3: unknown key 'prunning': did you mean 'pruning'?"),
        (
            "pruning:\n  prune_residual: no\n  roundto: 8",
            "line 5: unknown key 'pruning.roundto': did you mean 'pruning.round_to'?",
        ),
        ("round_to: 8", "line 3: unknown key 'round_to': did you mean 'pruning.round_to'?"),
        ("pruning: {round_to: 0}", "'pruning.round_to' should be 'auto' or greater than or equal to 1, found 0"),
        ("pruning: {protect: [layer1, 3]}", "line 3: 'pruning.protect.1' should be a valid string, found 3"),
        ("pruning: {pruning_ratio_max: 1}", "less than 1, found 1"),
        ("budget: 7", "line 3: 'budget' should be a mapping of keys to values, found 7"),
        ("budget: {evaluations: 2.5}", "'budget.evaluations' should be a valid integer, found 2.5"),
        ("budget: {evaluation: 2}", "did you mean 'budget.evaluations'?"),
        ("budget: {evaluations: null}", "'budget' should be a number of evaluations or of minutes, found neither"),
        ("seed: -1\nbatch_size: 0", "(and 1 more)"),
        ("objectives: [error, error]", "each objective once"),
        ("objectives: []", "'objectives' should"),
        ("task: {kind: x}", "'task' should be a name, or a mapping with one"),
        ('constraints: {latency_ms: "> 3"}', "line 3: 'constraints.latency_ms' should be \"<= NUMBER\""),
        ("latency_source: guess", "'latency_source' should be 'model' or 'device', found 'guess'"),
        ("seed: 1\nseed: 2", "line 4: 'seed' stands twice"),
        ("seed: [1", "not valid YAML"),
        ("seed: \x00", "not valid YAML"),
    ],
)
def test_mistake_is_named_with_its_place_and_remedy(tmp_path: Path, lines: str, expected: str) -> None:
    assert expected in complaint(tmp_path, f"{MINIMAL}{lines}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "problem.yaml is empty"),
        ("# nothing\n", "problem.yaml is empty"),
        ("- a\n- b\n", "problem.yaml, line 1: expected 'key: value' lines, found a list"),
        ("data: digits\n", "'network' is missing"),
    ],
)
def test_file_without_a_problem_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaint(tmp_path, text)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.yaml \(No such file or directory\)"):
        load_problem(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"cannot read .* \(Is a directory\)"):
        load_problem(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"not UTF-8 text"):
        load_problem(tmp_path / "binary.yaml")


def test_overrides_reach_problem_and_method(tmp_path: Path) -> None:
    overrides = [
        "data.path=/a b",
        "training.lr=1e-3",
        "pruning.protect=[conv1, layer3.*]",
        "selection=nsga2",
    ]
    problem, settings = load_problem(write(tmp_path, MINIMAL), overrides, {"selection": "hsr", "pop_size": 20})
    assert problem.data == {"name": "digits", "path": "/a b"}
    assert problem.training.lr == 1e-3
    assert problem.pruning.protect == ["conv1", "layer3.*"]
    assert settings == {"selection": "nsga2", "pop_size": 20}


def test_key_of_the_problem_wins_over_a_setting_of_the_same_name(tmp_path: Path) -> None:
    problem, settings = load_problem(write(tmp_path, MINIMAL), ["seed=7"], {"seed": 1})
    assert (problem.seed, settings) == (7, {"seed": 1})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("selction=nsga2", "--set selction: unknown key 'selction': did you mean 'selection'?"),
        ("budgett=3", "--set budgett: unknown key 'budgett': did you mean 'budget'?"),
        ("budget.evaluation=3", "--set budget.evaluation: unknown key 'budget.evaluation': did you mean"),
        ("seed.x=3", "--set seed.x: 'seed' should be a valid integer"),
        ("seed=x", "--set seed: 'seed' should be a valid integer, found 'x'"),
        ("pruning.protect=[1]", "--set pruning.protect: 'pruning.protect.0' should be a valid string"),
        ("seed", "--set seed: write key=value"),
        ("=3", "--set =3: write key=value"),
        ("a..b=3", "--set a..b=3: write key=value"),
        ("seed=[1", "--set seed: '[1' is not a YAML value"),
    ],
)
def test_override_that_cannot_be_used_is_named(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in complaint(tmp_path, MINIMAL, override, selection="hsr")


def test_override_cannot_lead_into_a_number(tmp_path: Path) -> None:
    text = "network: {name: resnet_cifar, depth: 20}\ndata: digits\nbatch_size: 1\n"
    assert "batch_size is 1 and has no keys" in complaint(tmp_path, text, "batch_size.x=3")


def test_method_settings_come_from_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "pop_size: 12\n")
    assert load_method_settings(path, {"pop_size": 20, "selection": "hsr"}) == {"pop_size": 12, "selection": "hsr"}
    with pytest.raises(ConfigError, match="unknown setting 'pop_size': did you mean 'popsize'"):
        load_method_settings(path, {"popsize": 20})


def test_schema_knows_every_key_and_accepts_short_names() -> None:
    schema = problem_schema()
    assert set(schema["properties"]) == set(Problem.model_fields)
    assert {"type": "string"} in schema["properties"]["network"]["anyOf"]
    assert schema["required"] == ["network", "data"]


def test_problem_cannot_be_changed_after_reading(tmp_path: Path) -> None:
    problem, _ = load_problem(write(tmp_path, MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        problem.seed = 3  # type: ignore[misc]


def test_yaml_of_a_problem_lists_every_default(tmp_path: Path) -> None:
    problem, _ = load_problem(write(tmp_path, MINIMAL))
    assert set(yaml.safe_load(problem.to_yaml())) == set(Problem.model_fields)


@pytest.mark.parametrize(
    ("text", "evaluations", "minutes"),
    [("200", 200, None), ("30min", None, 30.0), ("1.5h", None, 90.0), ("200, 30 min", 200, 30.0), ("2h,9", 9, 120.0)],
)
def test_budget_of_the_command_line_is_evaluations_time_or_both(
    tmp_path: Path, text: str, evaluations: int | None, minutes: float | None
) -> None:
    path = tmp_path / "problem.yaml"
    path.write_text(f"{MINIMAL}budget: {{evaluations: 70, minutes: 5}}\n")
    problem, _ = load_problem(path, parse_budget(text))
    assert (problem.budget.evaluations, problem.budget.minutes) == (evaluations, minutes)


@pytest.mark.parametrize("text", ["", "soon", "2.5", "-3", "30s", "1,2,x"])
def test_budget_that_is_none_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match="give evaluations"):
        parse_budget(text)
