"""Commands on several devices: words, exit codes and the form of what is printed."""

import json
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from hwprune.cli.app import root
from hwprune.cli.context import Session
from hwprune.cli.failures import Failure
from hwprune.cli.fleet import end_fleet, exit_code
from hwprune.cli.search import shared_by_several
from hwprune.experiments.side_by_side import Part

PROBLEM = "network: {name: resnet_cifar, depth: 8}\ndata: digits\n"
CLOSED = {
    "transport": "ssh",
    "platform": "cpu",
    "target": {"kind": "llvm", "mcpu": "haswell", "mtriple": "x86_64-linux-gnu"},
    "ssh": {"address": "pi@127.0.0.1:1", "host_keys": {"[127.0.0.1]:1": "ssh-ed25519 AAAA"}},
    "description": {"cpu_model": "x", "libc": "glibc 2.36"},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("problem.yaml").write_text(PROBLEM)
    devices = tmp_path / "home/devices"
    devices.mkdir(parents=True)
    for name, change in {"one": {}, "two": {}, "odd": {"threads": 2}}.items():
        (devices / f"{name}.yaml").write_text(yaml.safe_dump({**CLOSED, **change}))

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(root, ["--home", str(tmp_path / "home"), *map(str, arguments)])

    return run


def one_line(result: Result) -> str:
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["device", "profile", "one", "too"], 3, "unknown device 'too': did you mean 'two'?"),
        (["device", "profile", "one", "two", "one"], 2, "one is named twice"),
        (["device", "profile", "problem.yaml"], 2, "name a device before problem.yaml"),
        (["device", "profile", "one", "two", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["device", "profile", "one", "two", "--set", "seed=1"], 2, "name one"),
        (["device", "profile", "one", "odd", "problem.yaml", "--pool"], 2, "they differ in threads"),
        (["search", "problem.yaml", "--device", "one", "--device", "one"], 2, "one is named twice"),
        (["search", "problem.yaml", "--device", "one", "--device", "three"], 3, "unknown device 'three'"),
        (["search", "problem.yaml", "--device", "one", "--device", "odd", "--pool"], 2, "not identical"),
        (["search", "problem.yaml", "--device", "one", "--scenario", "paced:30"], 2, "paced:30Hz"),
    ],
)
def test_wrong_words_are_told_before_anything_is_begun(run, words: list[str], code: int, said: str) -> None:
    refused = run(*words)
    assert refused.exit_code == code, refused.output
    assert said in one_line(refused)
    assert refused.stdout == ""


def test_searches_of_several_devices_share_accuracies_unless_told_otherwise() -> None:
    assert shared_by_several({"recall": False, "pop_size": None}, ("pop_size=8",)) == {"recall": True}
    assert shared_by_several({"recall": False}, ("seed=1", "recall=false")) == {}
    assert shared_by_several({"batch_size": 20}, ()) == {}


def part(name: str, code: int = 0, resumable: str | None = None) -> Part[Failure]:
    failure = Failure("kind", f"{name} is away", code) if code else None
    return Part(name, None if code else {"mape": 1.5}, failure, Path(resumable) if resumable else None, 1.0)


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((0, 3), 3), ((3, 3, 0), 3), ((4, 3), 1), ((4, 0), 4)])
def test_one_exit_code_stands_for_all(codes: tuple[int, ...], expected: int) -> None:
    assert exit_code([part(f"d{number}", code) for number, code in enumerate(codes)]) == expected


def ended(*parts: Part[Failure], as_json: bool) -> Result:
    @click.command()
    @click.pass_context
    def command(context: click.Context) -> None:
        end_fleet(context, parts, as_json, facts=dict, show=lambda facts: click.echo(f"found {facts}"))

    return CliRunner().invoke(command, obj=Session())


def test_every_device_has_one_object_in_the_order_of_the_names() -> None:
    result = ended(part("b"), part("a", 3), part("c", 3, "runs/c"), as_json=True)
    assert json.loads(result.stdout) == [
        {"name": "b", "result": {"mape": 1.5}, "error": None},
        {"name": "a", "result": None, "error": {"kind": "kind", "message": "a is away", "exit_code": 3}},
        {
            "name": "c",
            "result": None,
            "error": {
                "kind": "kind",
                "message": "c is away; resume with: hwprune search --resume runs/c",
                "exit_code": 3,
            },
        },
    ]
    assert result.exit_code == 3


def test_people_see_results_and_then_one_line_for_each_that_failed() -> None:
    result = ended(part("a", 4), part("b"), as_json=False)
    assert result.stdout == "found {'mape': 1.5}\n"
    assert result.stderr == "error: a: a is away\n"
    assert result.exit_code == 4
