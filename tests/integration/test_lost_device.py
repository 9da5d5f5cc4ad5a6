"""A search whose device is lost in the middle of a measurement: it comes back, or stays away."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.boards, pytest.mark.timeout(900)]  # on a busy machine every measurement waits for its turn

#: The command, with little patience for lost devices.
IMPATIENT = """
import hwprune.experiments.session as session
from hwprune.cli import main
session.RECONNECT_WAITS_S = (0.3, 0.5)
main()
"""

ARGUMENTS = ("digits.yaml", "--method", "uniform", "--budget", 6, "--set", "objectives=[error, macs]")


def wait_for(condition, seconds=300.0):
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return found


def children(pid):
    """Processes that a process has started."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def agents_at_work(process, folder):
    """Agents of a running command that measure just now: they have libraries in processes of their own."""
    agents = [pid for pid in children(process.pid) if str(folder / "home/agents").encode() in command(pid)]
    return [agent for agent in agents if any(b"child.main" in command(child) for child in children(agent))]


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "HWPRUNE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def away(folder):
    """While this lasts, no agent can be started on this computer; the one that is at work is killed by the caller."""
    agents = folder / "home/agents/local"
    hidden = agents.rename(agents.with_name("hidden"))
    agents.write_text("a file, where the agent would have its folder")
    try:
        yield
    finally:
        agents.unlink()
        hidden.rename(agents)


def evaluations(run):
    records = [json.loads(line) for line in (run / "archive.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "evaluation"]


def test_a_search_goes_on_when_its_device_comes_back(hwprune, profile):
    runs = hwprune.folder / "runs-back"
    search = start(hwprune.folder, "search", *ARGUMENTS, "--runs", runs)
    (agent, *_) = wait_for(lambda: agents_at_work(search, hwprune.folder))
    os.kill(agent, signal.SIGKILL)
    stdout, stderr = search.communicate()
    assert "the device is lost" in stderr
    assert "the device is back" in stderr
    ended = subprocess.CompletedProcess(search.args, search.returncode, stdout, stderr)
    run = hwprune.finish(next(runs.glob("*"), None), ended)
    rows = json.loads((run / "measurements.json").read_text())
    assert rows
    assert [row["error"] for row in rows] == [None] * len(rows)


def test_a_profile_ends_with_three_when_its_device_stays_away_and_keeps_no_made_up_number(hwprune):
    profiling = start(hwprune.folder, "device", "profile", "local", "digits.yaml", "--minutes", 0.2, "--json")
    (agent, *_) = wait_for(lambda: agents_at_work(profiling, hwprune.folder))
    with away(hwprune.folder):
        os.kill(agent, signal.SIGKILL)
        stdout, stderr = profiling.communicate()
    assert profiling.returncode == 3, stderr
    error = json.loads(stdout)["error"]
    assert error["kind"] == "agent_lost"
    assert "stays away" in error["message"]
    assert "--resume" not in error["message"]
    with contextlib.closing(sqlite3.connect(hwprune.folder / "home/store.db")) as rows:
        assert rows.execute("SELECT COUNT(*) FROM measurements WHERE error IS NOT NULL").fetchone() == (0,)
        assert rows.execute("SELECT COUNT(*) FROM leases").fetchone() == (0,)


def test_a_search_pauses_when_its_device_stays_away_and_is_continued(hwprune, profile):
    runs = hwprune.folder / "runs-away"
    search = start(hwprune.folder, "search", *ARGUMENTS, "--runs", runs, "--json")
    (agent, *_) = wait_for(lambda: agents_at_work(search, hwprune.folder))
    with away(hwprune.folder):
        os.kill(agent, signal.SIGKILL)
        stdout, stderr = search.communicate()

    (run,) = runs.glob("*")
    assert search.returncode == 3, stderr
    error = json.loads(stdout)["error"]
    assert (error["kind"], error["exit_code"]) == ("agent_lost", 3)
    assert "stays away" in error["message"]
    assert error["message"].endswith(f"resume with: hwprune search --resume {run}")
    assert stderr.strip().splitlines()[-1] == f"error: {error['message']}"
    assert not (run / "front.json").exists()
    before = evaluations(run)
    assert [found["error"] for found in before] == [None] * len(before)

    assert hwprune.finish(run, hwprune("search", "--resume", run)) == run
    assert evaluations(run)[: len(before)] == before
    assert len(evaluations(run)) == 6
    assert (run / "front.csv").is_file()
