"""The commands for devices against a real SSH server, from registering a board to measuring on it and letting it go."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import threading
import time

import pytest
import torch
import yaml
from click.testing import CliRunner
from servers import MARK, make_key, public_key, wait_for

from device_agents.errors import DeviceBusy
from hwprune.cli.app import root
from hwprune.cli.console import Console
from hwprune.compilation.graph import trace
from hwprune.experiments import session as sessions
from hwprune.experiments.candidates import self_test
from hwprune.experiments.home import Home
from hwprune.experiments.session import open_session
from hwprune.measurement.jobs import NetworkJob

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(180)]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "hwprune"


@pytest.fixture
def run(home):
    def run(*arguments, home=home):
        return CliRunner().invoke(root, ["--home", str(home), "device", *map(str, arguments)])

    return run


def address(server):
    return f"root@{server.address}:{server.port}"


@pytest.fixture
def board(run, sshd):
    """A registered board."""
    arguments = ["--ssh", address(sshd), "--identity", sshd.user_key, "--host-key", sshd.host_key]
    added = run("add", "board", *arguments, "--json")
    assert added.exit_code == 0, added.stderr
    return json.loads(added.stdout)


def one_line(result):
    (line,) = result.stderr.strip().splitlines()
    return line


def names(run, **options):
    return [found["name"] for found in json.loads(run("list", "--json", **options).stdout)]


def failure(result):
    assert result.exit_code == 3, result.stdout + result.stderr
    return json.loads(result.stdout)["error"]["kind"]


def job(session):
    """A tiny network as a job for the session's device."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU()).eval()
    example = torch.zeros(1, 3, 16, 16)
    library = session.compiler.network(trace(network, example, session.compiler.target), network)
    return NetworkJob(library, self_test(network, example))


def test_a_board_is_described_and_its_target_filled_in(run, board, sshd):
    assert (board["name"], board["transport"], board["platform"]) == ("board", "ssh", "cpu")
    assert board["ssh"]["address"] == address(sshd)
    assert board["ssh"]["host_keys"] == {sshd.host: sshd.host_key}
    assert board["target"]["mtriple"] == f"{os.uname().machine}-linux-gnu"
    assert board["cores"] == sorted(os.sched_getaffinity(0))[:-3:-1]
    assert board["description"]["kernel"] == os.uname().release
    assert names(run) == ["board"]
    assert address(sshd) in run("list").stdout
    wait_for(lambda: not sshd.processes())


def test_the_target_of_a_boards_gpu_is_filled_in_and_marked_as_never_run(run, sshd, tmp_path):
    """By what NVIDIA's tool would say: there is no GPU here."""
    tool = tmp_path / "tools/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'Imaginary 9000, 550.1, 8.9, 8192, 1500, 60.0'\n")
    tool.chmod(0o755)
    sshd.restart(f"SetEnv PATH={tool.parent}:{os.environ['PATH']} HOME={sshd.home} {MARK}={sshd.folder}")
    words = ["--ssh", address(sshd), "--identity", sshd.user_key, "--host-key", sshd.host_key]
    added = run("add", "board", *words)
    assert added.exit_code == 0, added.stderr
    assert "its GPU could be compiled for as sm_89, not run here" in added.stdout
    shown = json.loads(run("show", "board", "--json").stdout)
    assert shown["gpu_target"] == {"kind": "cuda", "arch": "sm_89"}
    assert shown["target"]["kind"] == "llvm"


def test_a_key_in_known_hosts_needs_no_word(run, sshd, user):
    (user / "known_hosts").write_text(f"{sshd.host} {sshd.host_key}\n")
    added = run("add", "board", "--ssh", address(sshd), "--identity", sshd.user_key, "--threads", 2)
    assert added.exit_code == 0, added.stderr
    assert added.stdout.startswith("added board: ")
    assert added.stdout.endswith("; next: hwprune device profile board\n")
    assert json.loads(run("show", "board", "--json").stdout)["threads"] == 2


def test_without_a_terminal_an_unknown_key_is_refused_with_the_option_that_helps(run, sshd):
    refused = run("add", "board", "--ssh", address(sshd), "--identity", sshd.user_key)
    assert refused.exit_code == 3
    option = f'--host-key "{sshd.host_key}"'
    assert option in one_line(refused)
    assert "SHA256:" in one_line(refused)
    assert names(run) == []
    assert not sshd.agents_folder.exists()
    key = option.partition('"')[2].rstrip('"')
    added = run("add", "board", "--ssh", address(sshd), "--identity", sshd.user_key, "--host-key", f"host {key} me")
    assert added.exit_code == 0, added.stderr


@pytest.mark.parametrize(("answer", "code", "known"), [("y", 0, ["board"]), ("n", 3, [])])
def test_at_a_terminal_the_fingerprint_is_shown_and_asked_for(run, home, sshd, answer, code, known):
    ours, theirs = pty.openpty()
    words = ["--home", home, "device", "add", "board", "--ssh", address(sshd), "--identity", sshd.user_key]
    process = subprocess.Popen(
        [sys.executable, "-m", "hwprune", *map(str, words)], stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    shown = b""
    while process.poll() is None or b"\n" not in shown:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # how a terminal without anybody at its other end reads
            break
    os.close(ours)
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.folder / "host_key.pub")], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert fingerprint in shown.decode()
    assert process.wait(60) == code, shown.decode()
    assert names(run) == known


def test_another_key_than_the_given_one_is_refused(run, sshd, tmp_path):
    other = public_key(make_key(tmp_path / "other"))
    arguments = ["--ssh", address(sshd), "--identity", sshd.user_key, "--host-key", other]
    assert failure(run("add", "board", *arguments, "--json")) == "host_key_mismatch"
    assert names(run) == []
    assert not sshd.agents_folder.exists()


def test_another_users_key_is_refused(run, sshd, tmp_path):
    arguments = ["--ssh", address(sshd), "--host-key", sshd.host_key, "--identity", make_key(tmp_path / "wrong")]
    assert failure(run("add", "board", *arguments, "--json")) == "login_refused"
    assert names(run) == []


def test_a_board_with_a_c_library_that_is_too_old_is_not_written(run, sshd, monkeypatch):
    monkeypatch.setattr("hwprune.experiments.devices.GLIBC_MIN", (99, 0))
    arguments = ["--ssh", address(sshd), "--identity", sshd.user_key, "--host-key", sshd.host_key]
    assert failure(run("add", "board", *arguments, "--json")) == "board_unfit"
    assert names(run) == []


def test_check_finds_everything_in_order(run, board, sshd):
    rows = json.loads(run("check", "board", "--json").stdout)
    steps = ["reachable", "host key", "login", "Python", "free", "agent"]
    assert [row["what"] for row in rows][: len(steps)] == steps
    found = {row["what"]: row for row in rows}
    for what in (*steps, "C library", "test network", "fingerprint", "disk there", "C compiler"):
        assert found[what]["ok"], found[what]
    assert {"governor", "temperature", "power"} <= set(found)
    wait_for(lambda: not sshd.processes())


def test_check_tells_the_step_that_fails_and_how_to_mend_it(run, board, sshd, tmp_path):
    def failed():
        rows = json.loads(run("check", "board", "--json").stdout)
        return [(row["what"], row["remedy"]) for row in rows if not row["ok"]]

    (sshd.folder / "authorized_keys").write_text("")
    ((what, remedy),) = failed()
    assert (what, "ssh-copy-id" in remedy) == ("login", True)
    shutil.copy(sshd.folder / "user_key.pub", sshd.folder / "authorized_keys")

    sshd.stop()
    make_key(sshd.folder / "host_key")
    sshd.start()
    ((what, remedy),) = failed()
    assert (what, "not the pinned one" in remedy) == ("host key", True)

    sshd.stop()
    ((what, remedy),) = failed()
    assert (what, "start sshd there" in remedy) == ("reachable", True)


def test_clean_empties_the_agents_folder_and_remove_forgets_the_board(run, board, sshd):
    run("check", "board")
    assert list(sshd.agents_folder.glob("*.so"))
    freed = json.loads(run("clean", "board", "--json").stdout)
    assert freed["freed_bytes"] > 0
    assert not list(sshd.agents_folder.glob("*.so"))
    assert run("clean", "board").stdout == "freed 0 B on board\n"
    assert run("remove", "board").exit_code == 0
    assert names(run) == []


def test_an_inventory_with_one_good_and_two_bad_boards(run, sshd, user, tmp_path):
    (user / "known_hosts").write_text(f"{sshd.host} {sshd.host_key}\n")
    path = tmp_path / "boards.yaml"
    good = {"ssh": address(sshd), "identity": str(sshd.user_key)}
    boards = {
        "good": good,
        "closed": {"ssh": "root@127.0.0.1:1"},
        "stranger": {**good, "host_key": public_key(make_key(tmp_path / "other"))},
    }
    path.write_text(yaml.safe_dump(boards, sort_keys=False))
    ended = run("add", "--from", path, "--json")
    assert ended.exit_code == 3
    outcomes = [(row["name"], row["status"], row["kind"]) for row in json.loads(ended.stdout)]
    assert outcomes == [
        ("good", "added", ""),
        ("closed", "failed", "Unreachable"),
        ("stranger", "failed", "HostKeyMismatch"),
    ]
    assert names(run) == ["good"]
    again = run("add", "--from", path)
    assert again.exit_code == 3
    assert [line.split()[2] for line in again.stdout.splitlines()[1:]] == ["present", "failed", "failed"]
    path.write_text(yaml.safe_dump({"good": good, "better": {**good, "folder": ".cache/better"}}))
    assert run("add", "--from", path).exit_code == 0
    assert names(run) == ["better", "good"]


def test_a_network_is_measured_on_the_board_and_kept(run, board, home, sshd):
    place = Home(home)
    with open_session(place, place.devices.get("board"), Console(quiet=True)) as session:
        session.measurer.wait_s = 0.0
        found = session.measurer.network(job(session))
    assert found.error is None
    assert 0 < found.latency_ms < 1000
    assert found.conditions.device == "board"
    with place.open_store() as store:
        assert store.measurements(device="board") == [found]
    wait_for(lambda: not sshd.processes())


def test_a_connection_that_is_killed_in_mid_measurement_is_made_again(run, board, home, sshd):
    place = Home(home)
    said = []

    def kill(done, total):
        if not said:
            sshd.kill()

    with open_session(place, place.devices.get("board"), Console(quiet=True)) as session:
        session.measurer.wait_s = 0.0
        session.measurer.link._say = said.append
        found = session.measurer.networks([job(session)], progress=kill)
    assert said[0].startswith("the device is lost")
    assert said[-1] == "the device is back"
    assert [each.error for each in found] == [None]
    with place.open_store() as store:
        assert len(store.measurements()) == 1
    wait_for(lambda: not sshd.processes())


def test_a_second_host_is_kept_out_by_the_board_and_told_who_has_it(run, board, home, tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "LEASE_WAIT_S", 0.0)
    elsewhere = tmp_path / "elsewhere"  # a home of its own: no lease is shared
    shutil.copytree(home / "devices", elsewhere / "devices")
    place, other = Home(home), Home(elsewhere)
    with open_session(place, place.devices.get("board"), Console(quiet=True)):
        rows = {row["what"]: row for row in json.loads(run("check", "board", "--json", home=elsewhere).stdout)}
        assert not rows["free"]["ok"]
        assert f"process {os.getpid()}" in rows["free"]["remedy"]
        assert failure(run("clean", "board", "--json", home=elsewhere)) == "device_busy"
        with (
            pytest.raises(DeviceBusy, match=f"process {os.getpid()}"),
            open_session(other, other.devices.get("board"), Console(quiet=True)),
        ):
            pass
    assert run("clean", "board", home=elsewhere).exit_code == 0


def test_a_second_run_waits_for_its_turn(run, board, home, monkeypatch):
    place = Home(home)
    order = []

    def second():
        with open_session(place, place.devices.get("board"), Console(quiet=True)):
            order.append("second")

    with open_session(place, place.devices.get("board"), Console(quiet=True)):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1.0)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
