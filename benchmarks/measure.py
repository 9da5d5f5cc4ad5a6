"""`hwprune measure` of ONNX files: against ONNX Runtime's own performance tool, and against itself some time later.

    python benchmarks/measure.py [--quick] [--pause-minutes 30] [--resume]

1. *The loss.* Ten models are measured on three devices: this computer, and two boards that are SSH servers in network
   namespaces of it, which take turns. One board is killed when half of its cells are measured; every other cell shall
   be filled all the same, and the missing ones when the board is back and the command is given again. Without root
   there are no boards, and nothing is killed.
2. *The repetition.* The whole matrix is measured again after a pause. A cell agrees if both 95 % intervals overlap, and
   one without a number does not; at least 90 % of the cells shall.
3. *The tool*, during the pause. Every model is measured with ``--engine onnxruntime`` and by the tool that comes with
   the package, ``onnxruntime.tools.onnxruntime_test`` (``onnxruntime_perf_test`` is not in it), on the same core in
   turns. The tool gives the mean of its iterations; what counts is the 10th percentile of many short runs, as hwprune's
   latency is that of undisturbed calls. The tool takes no number of threads, so its sessions are made with one, and
   one serves all runs of a round, as the first inferences of a session are slower.
   Judged is the median ratio of a model over all rounds, of latencies as they were timed (at most 5 % from 1).

Partial results lie in ``results/measure.json``, what is measured with in ``results/measure.partial``; ``--resume`` goes
on from there, at the very cell that it was broken off at.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from comparison.model_zoo import QUICK, ZOO, write_zoo
from comparison.onnxruntime_tool import by_the_tool
from conditions import print_conditions
from measuring.dense import told_console
from measuring.hosts import Server, missing, open_boards
from measuring.kept import RESULTS, Kept

from hwprune.experiments import session
from hwprune.experiments.devices import add_board, add_local
from hwprune.experiments.home import Home
from hwprune.experiments.measure import Request, measure
from hwprune.experiments.progress import Console

ROUNDS, ROUNDS_QUICK = 4, 1
PAUSE_MIN = 30.0
DIFFERENCE_MAX, AGREEMENT_MIN = 0.05, 0.9

#: The devices of the matrix: this computer, and two boards, the last of which is killed.
HERE, BOARDS = "here", ("board", "doomed")
#: A core of this computer, for the comparison with the tool, which stays on one.
CORE = "core"
#: The quick form has little patience with a lost board.
QUICK_WAITS_S = (0.5, 1.0)


def main() -> None:
    """Measure, print tables and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} models, one round, no pause")
    parser.add_argument("--pause-minutes", type=float, default=PAUSE_MIN, metavar="M", help="before the repetition")
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/measure.json")
    options = parser.parse_args()
    print_conditions()
    console = told_console()
    kept = Kept("measure", is_resumed=options.resume, is_quick=options.quick)
    pause_min = 0.0 if options.quick else options.pause_minutes
    if options.quick:
        session.RECONNECT_WAITS_S = QUICK_WAITS_S
    with open_folder(is_kept=not options.quick, is_resumed=options.resume) as folder, boards_here() as boards:
        models = write_zoo(folder, list(ZOO)[:QUICK] if options.quick else list(ZOO))
        home = Home(folder / "home")
        add_devices(home, boards)
        bench = Bench(home, boards, models, console)
        began_s = kept.part("began_s", time.time)
        lossy = kept.part("lossy", lambda: bench.with_a_loss(began_s)) if boards else None
        first = kept.part("first", lambda: bench.matrix(began_s))
        loss = loss_of(lossy["cells"], first["cells"]) if lossy else None
        rounds = ROUNDS_QUICK if options.quick else ROUNDS
        tool = []
        with console.progress(len(models), "comparing with the tool") as steps:
            for model in models:
                work = functools.partial(by_the_tool, home, CORE, model, rounds)
                tool.append(kept.part(f"tool {model.stem}", work))
                steps.advance(1, model.stem)
        show_tool(tool)
        if "began_again_s" not in kept.parts:
            pause(first["ended_s"] + 60 * pause_min, console)
        again = kept.part("again", lambda: bench.matrix(kept.part("began_again_s", time.time)))
    rows = [repeated(*pair) for pair in zip(first["cells"], again["cells"], strict=True)]
    show_repetition(rows)
    worst = max((abs(row["ratio"] - 1) for row in tool if row["ratio"] is not None), default=None)
    unknown = sum(row["ratio"] is None for row in tool)
    agreeing = sum(row["agrees"] for row in rows)
    print(f"\nlargest difference from the tool {text(worst, '.1%', 0)} (at most {DIFFERENCE_MAX:.0%} is asked for)")
    print(f"{agreeing} of {len(rows)} cells agree, {agreeing / len(rows):.0%} (at least {AGREEMENT_MIN:.0%})")
    kept.finish(
        {
            "quick": options.quick,
            "onnxruntime": onnxruntime.__version__,
            "loss": loss,
            "worst_difference": worst,
            "without_ratio": unknown,
            "tool": tool,
            "pause_min": (again["began_s"] - first["ended_s"]) / 60,
            "agreeing_share": agreeing / len(rows),
            "repetition": rows,
        }
    )


@contextlib.contextmanager
def open_folder(*, is_kept: bool, is_resumed: bool) -> Iterator[Path]:
    """Where models, devices and measurements lie: until the benchmark is through, so that numbers are at one clock."""
    if not is_kept:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    folder = RESULTS / "measure.partial"
    if not is_resumed:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def boards_here() -> Iterator[dict[str, Server]]:
    """The boards; none where there can be none."""
    if reason := missing():
        print(f"nothing is killed: {reason}")
        yield {}
        return
    with open_boards(BOARDS) as boards:
        yield boards


def add_devices(home: Home, boards: Mapping[str, Server]) -> None:
    """This computer, one core of it, and the boards; those of an interrupted benchmark are elsewhere by now."""
    known = home.devices.names()
    if HERE not in known:
        here = add_local(home, HERE)
        home.devices.add(here.model_copy(update={"name": CORE, "cores": here.cores[:1]}))
    for name, board in boards.items():
        if name in known:
            home.devices.add(home.devices.get(name).model_copy(update={"ssh": board.way()}))
        else:
            add_board(home, name, board.way())


@dataclass(frozen=True)
class Bench:
    """Models and devices.

    Attributes:
        home: knows the devices, and keeps what was measured.
        boards: those that are not this computer itself.
        models: files.
        console: who is told how it goes.
    """

    home: Home
    boards: Mapping[str, Server]
    models: list[Path]
    console: Console

    def matrix(self, since_s: float) -> dict[str, Any]:
        """Every model on every device; what was measured since a moment (in seconds since 1970) is taken as it is."""
        request = Request(tuple(self.models), (HERE, *self.boards), max_age_s=time.time() - since_s)
        began_s, found = time.time(), measure(self.home, request, self.console)
        cells = [{**asdict(cell), "model": Path(cell.model).name} for cell in found.cells]
        return {"began_s": began_s, "ended_s": time.time(), "cells": cells}

    def with_a_loss(self, since_s: float) -> dict[str, Any]:
        """The same with a board that is killed midway, and stands again afterwards."""
        doomed = BOARDS[-1]
        ended = threading.Event()
        killer = threading.Thread(target=self._kill, args=(doomed, ended))
        killer.start()
        try:
            return self.matrix(since_s)
        finally:
            ended.set()
            killer.join()
            self.boards[doomed].restart()

    def _kill(self, name: str, ended: threading.Event) -> None:
        """End a board with all that runs on it once it has measured half of the models, unless all is over before."""
        with self.home.open_store() as store:
            enough = len(store.measurements(device=name)) + len(self.models) // 2
            while not ended.wait(0.2):
                if len(store.measurements(device=name)) >= enough:
                    self.boards[name].stop()
                    return


def loss_of(lossy: list[dict[str, Any]], whole: list[dict[str, Any]]) -> dict[str, Any]:
    """What a killed board cost, and what was left to do when it was back; told, too."""
    lost = [cell for cell in lossy if cell["latency_ms"] is None]
    loss = {
        "killed": BOARDS[-1],
        "cells": len(lossy),
        "lost": len(lost),
        "lost_elsewhere": sum(cell["device"] != BOARDS[-1] for cell in lost),
        "missing_at_last": sum(cell["latency_ms"] is None for cell in whole),
        "needlessly_again": sum(
            cell["source"] == "measured" and not before["error"] for before, cell in zip(lossy, whole, strict=True)
        ),
        "reasons": sorted({cell["error"] for cell in lost}),
    }
    print("\n" + "\n".join(f"{name} {value}" for name, value in loss.items()), flush=True)
    return loss


def pause(until_s: float, console: Console) -> None:
    """Wait until a moment, in seconds since 1970."""
    total_s = until_s - time.time()
    if total_s > 0:
        with console.progress(total_s, "pausing before the repetition, s") as steps:
            while (left_s := until_s - time.time()) > 0:
                step_s = min(10.0, left_s)
                time.sleep(step_s)
                steps.advance(step_s)


def show_tool(rows: list[dict[str, Any]]) -> None:
    """The table of the comparison."""
    print(f"\n{'model':<16}{'hwprune ms':>12}{'tool ms':>10}{'ratio':>8}  trust  tvm/onnxruntime")
    for row in rows:
        print(
            f"{row['model']:<16}{text(row['hwprune_ms'], '.4f', 12)}{text(row['tool_ms'])}"
            f"{text(row['ratio'], '.3f', 8)}  {row['trust']:<5}{text(row['tvm_over_onnxruntime'], '.2f', 17)}",
            flush=True,
        )


def repeated(first: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    """One cell, both times; one without a number does not agree."""
    row = {
        "model": Path(first["model"]).stem,
        "device": first["device"],
        "first_ms": first["latency_ms"],
        "again_ms": again["latency_ms"],
        "agrees": False,
        "reason": first["error"] or again["error"],
    }
    if row["reason"]:
        return row
    ends_ms = [(cell["latency_ms_low"], cell["latency_ms_high"]) for cell in (first, again)]
    (low, high), (low_again, high_again) = ends_ms
    return {**row, "agrees": low <= high_again and low_again <= high, "intervals_ms": ends_ms}


def show_repetition(rows: list[dict[str, Any]]) -> None:
    """The table of the repetition."""
    print(f"\n{'model':<16}{'device':<8}{'first ms':>10}{'again ms':>10}{'moved':>8}  intervals")
    for row in rows:
        moved = None if row["reason"] else row["again_ms"] / row["first_ms"] - 1
        verdict = row["reason"] or ("overlap" if row["agrees"] else "differ")
        print(
            f"{row['model']:<16}{row['device']:<8}{text(row['first_ms'])}{text(row['again_ms'])}"
            f"{text(moved, '.1%', 8)}  {verdict}"
        )


def text(value: float | None, form: str = ".4f", width: int = 10) -> str:
    """A number in a table; "-" where there is none."""
    return ("-" if value is None else format(value, form)).rjust(width)


if __name__ == "__main__":
    main()
