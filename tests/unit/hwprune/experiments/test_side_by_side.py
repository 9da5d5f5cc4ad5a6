"""Parts in processes of their own, with works that stand for what devices do to them."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hwprune.cli.console import Console, configure_logging
from hwprune.cli.failures import Failure, explain
from hwprune.errors import UntrustedError
from hwprune.experiments import side_by_side
from hwprune.experiments.progress import Silent
from hwprune.experiments.side_by_side import Part, run_side_by_side


@pytest.fixture(autouse=True)
def _nothing_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "PRELOADED", ())


def work(name: str, console: Console) -> str:
    """What its name says."""
    if name.startswith("fails"):
        raise UntrustedError("too unsteady: close other programs")
    if name.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("leaves"):
        os._exit(7)
    if name.startswith("pauses"):
        console.resumable = Path("runs") / name
        raise KeyboardInterrupt
    print("not data")
    console.info("begins")
    logging.getLogger("hwprune.measurement").warning("it is loud here")
    with console.progress(2, "measuring") as steps:
        steps.advance()
        steps.advance(1, "calm")
    return f"{name} in {os.getpid()}"


def timed(name: str, console: Console) -> tuple[float, float]:
    """When it began and ended."""
    began = time.monotonic()
    time.sleep(0.3)
    return began, time.monotonic()


def run(*names: str, **options: object) -> dict[str, Part[Failure]]:
    return {part.name: part for part in run_side_by_side(names, work, explain=explain, console=Silent(), **options)}


def test_every_part_has_a_process_and_a_result_in_the_order_of_the_names() -> None:
    parts = run("b", "a", "c")
    assert list(parts) == ["b", "a", "c"]
    assert all(part.failure is None for part in parts.values())
    assert len({part.result.split(" in ")[1] for part in parts.values()} | {str(os.getpid())}) == 4


def test_parts_that_fail_crash_or_vanish_cost_the_others_nothing() -> None:
    parts = run("fails", "good", "dies", "leaves", "fine")
    assert parts["good"].result.startswith("good")
    assert parts["fine"].result.startswith("fine")
    found = {name: part.failure for name, part in parts.items() if part.failure is not None}
    assert {name: (failure.kind, failure.exit_code) for name, failure in found.items()} == {
        "fails": ("untrusted", 4),
        "dies": ("part_crashed", 1),
        "leaves": ("part_crashed", 1),
    }
    assert found["fails"].message == "too unsteady: close other programs"
    assert "SIGKILL" in found["dies"].message
    assert "status 7" in found["leaves"].message


def test_a_part_that_was_broken_off_tells_what_can_be_gone_on_with() -> None:
    part = run("pauses")["pauses"]
    assert part.failure is not None
    assert (part.failure.kind, part.failure.exit_code) == ("interrupted", 130)
    assert part.resumable == Path("runs/pauses")


def test_messages_and_progress_are_told_by_the_name_of_their_part(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(0, None)
    run_side_by_side(["one", "two"], work, explain=explain, console=Console(terminal=False))
    out, err = capfd.readouterr()
    assert out == ""  # standard output is for data
    for name in ("one", "two"):
        told = [line for line in err.splitlines() if name in line]
        assert told == [
            f"{name}: begins",
            f"warning: {name}: it is loud here",
            f"{name}: measuring: 2/2 in 0 s (calm)",
        ]


def test_parts_that_want_to_be_alone_come_last_and_one_by_one() -> None:
    names = ["here", "far", "also here", "further"]
    parts = run_side_by_side(names, timed, explain=explain, console=Silent(), alone=("here", "also here"))
    spans = {part.name: part.result for part in parts}
    others_end = max(spans["far"][1], spans["further"][1])
    assert others_end <= spans["here"][0]
    assert spans["here"][1] <= spans["also here"][0]
    assert spans["far"][0] < spans["further"][1]
    assert spans["further"][0] < spans["far"][1]


def test_no_more_parts_than_allowed_are_at_work() -> None:
    parts = run_side_by_side(["a", "b", "c"], timed, explain=explain, console=Silent(), at_once=1)
    spans = [part.result for part in parts]
    assert spans[0][1] <= spans[1][0]
    assert spans[1][1] <= spans[2][0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_parts_end_with_the_command(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "parts.py").write_text(
        textwrap.dedent("""
        import os, sys, time
        from pathlib import Path
        from hwprune.experiments import side_by_side
        from hwprune.experiments.progress import Silent

        def work(name, console):
            Path(name).write_text(str(os.getpid()))
            time.sleep(60)

        if __name__ == "__main__":
            side_by_side.PRELOADED = ()
            side_by_side.run_side_by_side(["a", "b"], work, explain=str, console=Silent())
        """)
    )
    with subprocess.Popen([sys.executable, "parts.py"], cwd=tmp_path, stderr=subprocess.DEVNULL) as command:
        pids = [int(wait_for_text(tmp_path / name)) for name in ("a", "b")]
        command.send_signal(number)
        command.wait(30)
    give_up = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < give_up
        time.sleep(0.05)


def wait_for_text(path: Path) -> str:
    give_up = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return path.read_text()
