"""Commands for devices, as far as they need no board: this computer, wrong words, and files."""

import json
import os
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from hwprune.cli.app import root
from hwprune.experiments.home import Home
from hwprune.measurement.lease import lease


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def run(home: Path):
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(root, ["--home", str(home), "device", *map(str, arguments)])

    return run


@pytest.fixture
def local(run) -> dict[str, object]:
    added = run("add", "--json")
    assert added.exit_code == 0, added.stderr
    return json.loads(added.stdout)


def one_line(result: Result) -> str:
    (line,) = result.stderr.strip().splitlines()
    return line


def test_this_computer_is_added_listed_shown_and_removed(run, local, home: Path) -> None:
    assert (local["name"], local["transport"], local["ssh"]) == ("local", "local", None)
    assert local["target"]["mcpu"]
    assert local["threads"] == 1
    assert local["cores"] == sorted(os.sched_getaffinity(0))[:-3:-1]
    assert [found["name"] for found in json.loads(run("list", "--json").stdout)] == ["local"]
    header, line = run("list").stdout.splitlines()
    assert header.split()[:3] == ["name", "platform", "at"]
    assert "this computer" in line
    assert json.loads(run("show", "local", "--json").stdout)["fingerprint"]
    assert run("remove", "local").exit_code == 0
    assert json.loads(run("list", "--json").stdout) == []


def test_a_name_that_is_taken_is_refused_and_left_alone(run, local, home: Path) -> None:
    before = (home / "devices/local.yaml").read_bytes()
    for arguments in (["add", "local"], ["add", "local", "--ssh", "pi@pi4.local"]):
        refused = run(*arguments)
        assert refused.exit_code == 2
        assert "'hwprune device remove local' first" in one_line(refused)
    assert (home / "devices/local.yaml").read_bytes() == before


def test_more_threads_than_cores_are_refused(run) -> None:
    refused = run("add", "many", "--threads", 4096)
    assert refused.exit_code == 2
    assert "choose at most" in one_line(refused)
    assert json.loads(run("list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pi4", "--host-key", "ssh-ed25519 AAAA"], "add --ssh"),
        (["--ssh", "pi@pi4.local"], "name the board"),
        (["pi4", "--ssh", "pi@pi4.local", "--from", "boards.yaml"], "drop the others"),
        (["pi4", "--ssh", "-oProxyCommand=x"], "must be [user@]host[:port]"),
        (["pi4", "--ssh", "pi@pi4.local", "--host-key", "what"], "is no host key"),
        (["../pi4", "--ssh", "pi@127.0.0.1:1", "--host-key", "ssh-ed25519 AAAAC3Nz"], "must begin with a letter"),
        (["pi4", "--ssh", "pi@pi4.local", "--identity", "/nowhere/key"], "does not exist"),
    ],
)
def test_words_that_make_no_sense_end_with_two(run, arguments: list[str], said: str) -> None:
    refused = run("add", *arguments)
    assert refused.exit_code == 2
    assert said in one_line(refused)
    assert json.loads(run("list", "--json").stdout) == []


def test_a_board_that_cannot_be_reached_ends_with_three_and_is_not_written(run) -> None:
    for key in ([], ["--host-key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtleXM="]):
        refused = run("add", "pi4", "--ssh", "pi@127.0.0.1:1", *key, "--json")
        assert refused.exit_code == 3
        assert json.loads(refused.stdout)["error"]["kind"] == "unreachable"
        assert "refuses connections on port 1" in one_line(refused)
    assert json.loads(run("list", "--json").stdout) == []


def test_check_tells_what_works_on_this_computer(run, local) -> None:
    rows = {row["what"]: row for row in json.loads(run("check", "local", "--json").stdout)}
    for what in ("free", "agent", "C library", "C compiler", "test network", "fingerprint"):
        assert rows[what]["ok"], rows[what]
    assert {"governor", "temperature", "power", "disk"} <= set(rows)
    assert not {"reachable", "host key", "login"} & set(rows)


def test_check_of_a_device_that_cannot_be_reached_tells_the_step_and_the_remedy(run, home: Path) -> None:
    entry = {
        "transport": "ssh",
        "platform": "cpu",
        "target": {"kind": "llvm", "mcpu": "haswell", "mtriple": "x86_64-linux-gnu"},
        "ssh": {"address": "pi@127.0.0.1:1", "host_keys": {"[127.0.0.1]:1": "ssh-ed25519 AAAA"}},
    }
    (home / "devices").mkdir(parents=True)
    (home / "devices/pi4.yaml").write_text(yaml.safe_dump(entry))
    checked = run("check", "pi4", "--json")
    assert checked.exit_code == 3
    rows = {row["what"]: row for row in json.loads(checked.stdout)}
    assert not rows["reachable"]["ok"]
    assert "start sshd there" in rows["reachable"]["remedy"]
    assert "login" not in rows
    assert rows["C compiler"]["ok"]


def test_check_and_clean_of_a_device_in_use_say_who_uses_it(run, local, home: Path) -> None:
    with Home(home).open_store() as store, lease(store.leases, "local"):
        rows = {row["what"]: row for row in json.loads(run("check", "local", "--json").stdout)}
        assert not rows["free"]["ok"]
        assert "is used by process" in rows["free"]["remedy"]
        refused = run("clean", "local")
        assert refused.exit_code == 3
        assert "is used by process" in one_line(refused)


def test_clean_frees_what_a_check_has_brought(run, local, home: Path) -> None:
    run("check", "local")
    (library,) = (home / "agents/local").glob("*.so")
    freed = json.loads(run("clean", "local", "--json").stdout)
    assert freed["name"] == "local"
    assert freed["freed_bytes"] > 0
    assert not library.exists()
    assert run("clean", "local").stdout == "freed 0 B on local\n"


def test_an_inventory_that_is_wrong_is_refused_as_a_whole_with_file_and_line(run, tmp_path: Path) -> None:
    path = tmp_path / "boards.yaml"
    for text, said in (
        (
            "pi4: {ssh: pi@pi4.local}\npi5: {ssh: pi5, treads: 4}\n",
            "line 2: unknown key 'treads': did you mean 'threads'",
        ),
        ("pi4: pi@pi4.local\n", "should be a mapping"),
        ("pi4: {ssh: pi, threads: 0}\n", "threads"),
        ("pi4: {threads: 2}\n", "'ssh' is missing"),
    ):
        path.write_text(text)
        refused = run("add", "--from", path)
        assert refused.exit_code == 2, text
        assert said in one_line(refused)
        assert str(path) in one_line(refused)


def test_boards_of_an_inventory_that_fail_are_told_with_their_reasons(run, tmp_path: Path) -> None:
    path = tmp_path / "boards.yaml"
    path.write_text(
        "closed: {ssh: 'pi@127.0.0.1:1', host_key: ssh-ed25519 AAAAC3Nz}\n"
        "typo: {ssh: 'pi@127.0.0.1:1', host_key: what}\n"
    )
    refused = run("add", "--from", path, "--json")
    assert refused.exit_code == 3
    closed, typo = json.loads(refused.stdout)
    assert (closed["name"], closed["status"], closed["kind"]) == ("closed", "failed", "Unreachable")
    assert "refuses connections" in closed["message"]
    assert (typo["kind"], typo["status"]) == ("ConfigError", "failed")
    table = run("add", "--from", path)
    assert table.exit_code == 3
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["name", "closed", "typo"]
    assert json.loads(run("list", "--json").stdout) == []


@pytest.mark.parametrize("command", ["add", "list", "show", "check", "clean", "remove", "profile"])
def test_every_help_text_has_an_example(run, command: str) -> None:
    assert f"hwprune device {command}" in run(command, "--help").stdout.partition("For example:")[2]
