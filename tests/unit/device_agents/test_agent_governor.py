import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_agents import bundle
from device_agents.agent.governor import Governor, write

POLICIES = "sys/devices/system/cpu/cpufreq/"


@pytest.fixture
def board(tmp_path):
    """Root of a board with two clusters."""
    for policy, governor in (("policy0", "ondemand"), ("policy4", "schedutil")):
        folder = tmp_path / POLICIES / policy
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
        (folder / "scaling_available_governors").write_text("performance ondemand schedutil\n")
    return tmp_path


@pytest.fixture
def shipped(tmp_path):
    return str(bundle.build(tmp_path))


@pytest.fixture
def lock(tmp_path):
    descriptor = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def settings(root):
    return [path.read_text().strip() for path in sorted(Path(root, POLICIES).glob("*/scaling_governor"))]


def wait_for(condition):
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def end(governor):
    """What the end of the agent does: the pipe closes."""
    governor.guard.stdin.close()
    assert governor.guard.wait(10) == 0
    governor.guard.stdout.close()


def test_the_clocks_stand_high_until_the_agent_ends(board, shipped, lock):
    governor = Governor(str(board), shipped, lock)
    assert governor.raise_clocks() == ""
    assert settings(board) == ["performance", "performance"]
    end(governor)
    assert settings(board) == ["ondemand", "schedutil"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_guard_that_is_told_to_go_puts_the_settings_back_first(board, shipped, lock, number):
    governor = Governor(str(board), shipped, lock)
    governor.raise_clocks()
    governor.guard.send_signal(number)
    assert governor.guard.wait(10) == 0
    assert settings(board) == ["ondemand", "schedutil"]
    governor.guard.stdin.close()
    governor.guard.stdout.close()


def test_settings_come_back_when_the_agent_is_killed(board, shipped, tmp_path):
    code = (
        "import os, sys, time\n"
        "from device_agents.agent.governor import Governor\n"
        "governor = Governor(sys.argv[1], sys.argv[2], os.open(os.devnull, os.O_RDONLY))\n"
        "assert governor.raise_clocks() == ''\n"
        "print('raised', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, board, shipped], stdout=subprocess.PIPE) as agent:
        assert agent.stdout.readline() == b"raised\n"
        assert settings(board) == ["performance", "performance"]
        agent.kill()
    wait_for(lambda: settings(board) == ["ondemand", "schedutil"])


def test_what_stands_high_already_is_left_alone(board, shipped, lock):
    for path in Path(board, POLICIES).glob("*/scaling_governor"):
        path.write_text("performance\n")
    governor = Governor(str(board), shipped, lock)
    assert governor.raise_clocks() == ""
    assert governor.guard is None


def test_a_machine_without_governors_is_nothing_to_warn_of(tmp_path, shipped, lock):
    governor = Governor(str(tmp_path), shipped, lock)
    assert governor.raise_clocks() == ""
    assert governor.guard is None


def test_a_system_without_performance_is_left_alone_with_a_warning(board, shipped, lock):
    (board / POLICIES / "policy4/scaling_available_governors").write_text("powersave schedutil\n")
    governor = Governor(str(board), shipped, lock)
    assert "ondemand+schedutil" in governor.raise_clocks()
    assert governor.guard is None
    assert settings(board) == ["ondemand", "schedutil"]


def test_a_user_who_may_not_set_it_is_told_how(board, shipped, lock, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write whatever the file's mode is
    warning = Governor(str(board), shipped, lock).raise_clocks()
    assert "cpupower frequency-set -g performance" in warning
    assert settings(board) == ["ondemand", "schedutil"]


def test_a_setting_that_cannot_be_written_is_told(tmp_path):
    assert not write(str(tmp_path / "absent"), "performance")
    assert not (tmp_path / "absent").exists()
    assert not write("/dev/full", "performance")
