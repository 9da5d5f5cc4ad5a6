import io
import logging
import sys
import time

import pytest

from hwprune.cli import console as module
from hwprune.cli.console import Console, configure_logging


@pytest.fixture(autouse=True)
def _plain_logging() -> None:
    configure_logging(0, None)


def test_messages_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(terminal=False)
    console.info("measuring 3 % of it")
    console.warn("it is loud here")
    assert capsys.readouterr() == ("", "measuring 3 % of it\nwarning: it is loud here\n")


def test_details_are_told_on_request_only(capsys: pytest.CaptureFixture[str]) -> None:
    for verbosity, said in ((-1, ""), (0, ""), (1, "debug: detail\n")):
        configure_logging(verbosity, None)
        logging.getLogger("hwprune.search").debug("detail")
        assert capsys.readouterr().err == said


def test_without_a_terminal_progress_is_one_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(terminal=False).progress(3, "training") as steps:
        for _ in range(3):
            steps.advance(note="loss 0.1")
    assert capsys.readouterr().err == "training: 3/3 in 0 s (loss 0.1)\n"


def test_long_work_says_now_and_then_how_much_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 5.0, 12.0, 12.0, 30.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with Console(terminal=False).progress(4, "measuring") as steps:
        steps.advance()
        steps.advance()
    assert capsys.readouterr().err == "measuring: 2/4, 12 s left\nmeasuring: 2/4 in 30 s\n"


def test_work_that_was_done_before_is_soon_forgotten_in_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.1, 20.0, 20.0, 40.0, 40.0, 60.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with Console(terminal=False).progress(200, "searching") as steps:
        steps.advance(100)
        steps.advance(1)
        steps.advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "searching: 101/200, 20 s left",
        "searching: 102/200, 32 min 40 s left",
        "searching: 102/200 in 1 min 00 s",
    ]


def test_live_view_is_no_part_of_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(terminal=False).progress(1, "searching") as steps:
        steps.show(["hypervolume 0.1", "2 s left"])
    assert capsys.readouterr().err == "searching: 0/1 in 0 s\n"


def test_lines_of_the_live_view_stand_below_the_progress() -> None:
    from rich.console import Console as Terminal

    with module._bar() as progress:
        steps = module._Bar(progress, progress.add_task("searching", total=2, note=""))
        steps.show(["hypervolume 0.1", "2 s left"])
        shown = Terminal(width=80, file=io.StringIO(), force_terminal=False)
        for part in progress.get_renderables():
            shown.print(part)
    lines = shown.file.getvalue().splitlines()
    assert lines[0].startswith("searching")
    assert [line.strip() for line in lines[1:]] == ["hypervolume 0.1", "2 s left"]


def test_work_of_unknown_length_counts_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(terminal=False).progress(None, "waiting") as steps:
        steps.advance(2)
    assert capsys.readouterr().err == "waiting: 2 in 0 s\n"


def test_quiet_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(quiet=True, terminal=True).progress(2, "training") as steps:
        steps.advance()
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar_shows_steps_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console()
    assert console.terminal
    with console.progress(2, "training") as steps:
        steps.advance(1, "loss 0.5")
        console.info("an epoch is over")
        time.sleep(0.15)
    shown = screen.getvalue()
    assert "1/2" in shown
    assert "loss 0.5" in shown
    assert "an epoch is over" in shown
    assert "\x1b[3" not in shown  # NO_COLOR: no colour codes


def test_on_a_terminal_every_part_has_a_line_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    with Console().side_by_side(["pi4", "pi5"]) as consoles:
        with consoles["pi4"].progress(4, "measuring") as steps:
            steps.advance(3, "calm")
        consoles["pi5"].warn("it is away")
        time.sleep(0.15)
    shown = screen.getvalue()
    assert "pi4: measuring" in shown
    assert "3/4" in shown
    assert "calm" in shown
    assert "pi5: waits" in shown
    assert "warning: pi5: it is away" in shown


def test_without_a_terminal_lines_of_parts_begin_with_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        Console(terminal=False).side_by_side(["pi4", "pi5"]) as consoles,
        consoles["pi4"].progress(2, "measuring") as one,
        consoles["pi5"].progress(3, "measuring") as other,
    ):
        one.advance(2)
        other.advance(1)
        consoles["pi4"].info("is done")
    assert capsys.readouterr().err.splitlines() == [
        "pi4: is done",
        "pi5: measuring: 1/3 in 0 s",
        "pi4: measuring: 2/2 in 0 s",
    ]


def test_failing_work_closes_its_bar_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with Console(terminal=False).progress(3, "training") as steps:
            steps.advance()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert capsys.readouterr().err == ""
