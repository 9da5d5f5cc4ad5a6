"""A search that is killed and interrupted, and goes on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # on a busy machine every measurement waits for its turn

BUDGET = 24

#: Nothing that is measured on the way decides what is evaluated next, so that two runs can be compared.
ARGUMENTS = ("digits.yaml", "--method", "nsga2", "--budget", BUDGET, "--set", "objectives=[error, macs]")


def wait_for(condition, seconds=120.0):
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def lines_of(run):
    """Whole lines of a run's archive."""
    path = run / "archive.jsonl"
    return (
        [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if path.exists() else []
    )


def evaluations_of(run):
    """What a run evaluated, without the time that it took."""
    records = [json.loads(line) for line in lines_of(run)]
    return [{**record, "seconds": None} for record in records if record["kind"] == "evaluation"]


def agents_of(folder):
    """Process numbers of the agents that work for a home folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, state = (
                (entry / "cmdline").read_bytes(),
                (entry / "stat").read_text().rpartition(")")[2].split()[0],
            )
        except OSError:
            continue
        if str(folder / "home" / "agents").encode() in command and state != "Z":
            found.append(int(entry.name))
    return found


def initial(evaluations):
    return [(found["plan_key"], found["metric"]) for found in evaluations if found["generation"] == 0]


def stop(process, run, count, number):
    """Send a search the signal ``number`` when it has written ``count`` lines; all lines, exit code and messages."""
    wait_for(lambda: len(lines_of(run())) >= count or process.poll() is not None)
    process.send_signal(number)
    _, stderr = process.communicate()
    return lines_of(run()), process.returncode, stderr


def test_a_search_that_is_killed_and_interrupted_ends_as_if_nothing_had_happened(hwprune, profile):
    runs = hwprune.folder / "runs-stopped"

    def run():
        return next(runs.glob("*"), runs / "none yet")

    search = hwprune.start("search", *ARGUMENTS, "--runs", runs)
    killed, code, _ = stop(search, run, 6, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert 6 <= len(killed) < BUDGET
    wait_for(lambda: not agents_of(hwprune.folder))

    with (run() / "archive.jsonl").open("ab") as stream:
        stream.write(b'{"kind": "evaluation", "plan_key": "cut sh')  # as a kill in mid-write leaves it
    search = hwprune.start("search", "--resume", run())
    interrupted, code, messages = stop(search, run, len(killed) + 4, signal.SIGINT)
    assert code == 130
    assert messages.splitlines()[-1] == f"interrupted; resume with: hwprune search --resume {run()}"
    assert interrupted[: len(killed)] == killed
    assert len(killed) < len(interrupted) < BUDGET
    wait_for(lambda: not agents_of(hwprune.folder))

    hwprune.finish(run(), hwprune("search", "--resume", run()))
    assert lines_of(run())[: len(interrupted)] == interrupted
    found = evaluations_of(run())
    assert len({evaluation["plan_key"] for evaluation in found}) == len(found) == BUDGET
    assert (run() / "front.csv").is_file()

    # Later generations hang on what the device says of a few networks, which no two runs measure alike.
    others = hwprune.folder / "runs-undisturbed"
    search = hwprune.start("search", *ARGUMENTS, "--runs", others)
    first = len(initial(found))
    stop(search, lambda: next(others.glob("*"), others / "none yet"), first, signal.SIGKILL)
    undisturbed = evaluations_of(next(others.glob("*")))
    assert initial(found) == initial(undisturbed)[:first] != []

    again = hwprune("search", "--resume", run(), "--json")
    assert again.returncode == 1
    assert "has ended" in json.loads(again.stdout)["error"]["message"]
