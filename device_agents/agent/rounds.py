"""One measurement over several libraries: warm-up, then rounds in which their processes take turns, one at a time."""

from __future__ import annotations

import time
from typing import Any, Callable, NamedTuple

from device_agents.agent.children import Child, ChildFailed
from device_agents.agent.timing import GATED_NS_MAX, NEAR_LEVEL

Progress = Callable[[int, int], None]

#: Readings of the reference kernel that differ by no more stand at one level.
STEADY_WITHIN = 0.01

#: Where each reading takes too long to choose moments by, so many blocks are as good as more: none is waited for.
SLOW_BLOCKS = 8


class Settings(NamedTuple):
    """How to measure.

    Attributes:
        blocks: most blocks of each job.
        steady_blocks: a job is done after so many blocks with the reference kernel at one level, the device's own where
            that is known, else in a row; or after a few, where the reference kernel is slow to read; 0 for never.
        level_ns: what the reference kernel takes at the device's own level; 0 where that is not known and looked for.
        patience: how long blocks are held back until the device is at its level, as a multiple of the time that they
            take.
        spare_cores: cores to look for that level at, by turns; [] to stay.
        calls_min: least number of values in a block.
        block_ms_min: least length of a block.
        warmup_ms_max: longest warm-up of one job.
        max_s: no block starts later than this after the beginning.
        timeout_s: a process that is silent for longer is ended.
        load: what the device is put through, as the protocol has it.
    """

    blocks: int
    steady_blocks: int
    level_ns: float
    patience: float
    spare_cores: list[int]
    calls_min: int
    block_ms_min: float
    warmup_ms_max: float
    max_s: float
    timeout_s: float
    load: dict[str, Any]


class Measuring:
    """One ``measure`` request on its way.

    Args:
        jobs: ``{"handle", "index", "numbers"}`` of each.
        children: the processes of these handles.
        settings: how to measure.
        progress: called with the blocks done (warm-ups count as one) and their total.
        look: what the device is doing just now; asked during each block's untimed calls.

    Attributes:
        results: for every job ``{"blocks", "warmup_calls", "overhead_ns", "energy_missing", "error"}``; a job that
            failed keeps the blocks before its failure.
    """

    def __init__(
        self,
        jobs: list[dict[str, Any]],
        children: dict[int, Child],
        settings: Settings,
        progress: Progress,
        look: Callable[[], dict[str, Any]],
    ) -> None:
        self._children = children
        self._look = look
        self._began = time.monotonic()
        self._settings = settings
        self._progress = progress
        self._end = time.monotonic() + settings.max_s
        self._done, self._total = 0, len(jobs) * (settings.blocks + 1)
        self._jobs = jobs
        self._places: dict[int, list[int]] = {}
        for place, job in enumerate(jobs):
            self._places.setdefault(job["handle"], []).append(place)
        self.results: list[dict[str, Any]] = [
            {"blocks": [], "warmup_calls": 0, "overhead_ns": 0.0, "energy_missing": "", "error": None} for _ in jobs
        ]

    def run(self) -> list[dict[str, Any]]:
        """Measure; the results in the order of the jobs."""
        for handle in self._places:
            self._warm_up(handle)
        for number in range(self._settings.blocks):
            if not self._remaining_s() or not any(map(self._unfinished, self._places)):
                break
            # Every other round runs backwards, so that no job always follows the same one.
            backwards = number % 2 == 1
            for handle in sorted(self._places, reverse=backwards):
                self._round(handle, backwards)
        for result in self.results:
            if not result["blocks"] and result["error"] is None:
                result["error"] = f"the time limit of {self._settings.max_s:g} s ran out before its first block"
        self._progress(self._total, self._total)
        return self.results

    def _alive(self, handle: int) -> list[int]:
        return [place for place in self._places[handle] if self.results[place]["error"] is None]

    def _unfinished(self, handle: int) -> list[int]:
        enough, level_ns = self._settings.steady_blocks, self._settings.level_ns
        return [
            place for place in self._alive(handle) if not is_steady(self.results[place]["blocks"], enough, level_ns)
        ]

    def _remaining_s(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def _warm_up(self, handle: int) -> None:
        """Warm up every job of one process; one that crashes is left out and the others start again without it."""
        waiting = self._alive(handle)
        while waiting:
            request = {
                "do": "warm",
                "jobs": [(place, self._jobs[place]) for place in waiting],
                "limit_ns": self._settings.warmup_ms_max * 1e6,
                "calls_min": self._settings.calls_min,
                "block_ns_min": self._settings.block_ms_min * 1e6,
                "budget_s": self._remaining_s(),
                "level_ns": self._settings.level_ns,
                "patience": self._settings.patience,
                "spare_cores": self._settings.spare_cores,
                "load": self._settings.load,
            }
            if self._turn(handle, request, waiting):
                return
            waiting = self._alive(handle)

    def _round(self, handle: int, backwards: bool) -> None:
        """One block of every unfinished job of one process; after a crash the rest of them in a new process."""
        waiting = self._unfinished(handle)
        if backwards:
            waiting.reverse()
        while waiting:
            request = {"do": "round", "order": list(waiting), "budget_s": self._remaining_s()}
            if self._turn(handle, request, waiting):
                return
            self._warm_up(handle)
            waiting = [place for place in waiting if self.results[place]["error"] is None]

    def _turn(self, handle: int, request: dict[str, Any], waiting: list[int]) -> bool:
        """Let one process work, taking what it has done from ``waiting``; whether it lived to the end.

        Where it dies, the job that it was at is failed and the process started again for the others.
        """
        child = self._children[handle]
        state = None
        try:
            child.tell(request)
            if request["do"] == "round" and self._settings.load["busy_ms"]:
                state = dict(self._look(), elapsed_s=time.monotonic() - self._began)
            while True:
                line, _ = child.hear(self._settings.timeout_s)
                if "done" in line:
                    return True
                waiting.remove(line["job"])
                self._note(line, state)
        except ChildFailed as failure:
            for place in waiting[:1]:
                self.results[place]["error"] = str(failure)
        self._restart(handle)
        return False

    def _restart(self, handle: int) -> None:
        alive = self._alive(handle)
        try:
            if alive:
                self._children[handle].restart(self._settings.timeout_s)
        except ChildFailed as failure:
            for place in alive:
                self.results[place]["error"] = str(failure)

    def _note(self, line: dict[str, Any], state: dict[str, Any] | None) -> None:
        result = self.results[line.pop("job")]
        if "ns" in line:
            result["blocks"].append(dict(line, state=state))
        else:
            result.update(line)
        self._done += 1
        self._progress(min(self._done, self._total), self._total)


def is_steady(blocks: list[dict[str, Any]], enough: int, level_ns: float = 0) -> bool:
    """Whether the reference kernel stood at one level during ``enough`` blocks; 0 is never enough.

    Args:
        blocks: of one job.
        enough: how many are.
        level_ns: the level that is meant, if it is known: it may come and go. Otherwise the last blocks count: a level
            that was left is not known to be the one that others will stand at.
    """
    readings = [(block["before_ns"], block["after_ns"]) for block in blocks]
    if enough and len(readings) >= SLOW_BLOCKS and min(map(min, readings)) > GATED_NS_MAX:
        return True
    if level_ns:
        readings = sorted(pair for pair in readings if max(pair) <= level_ns * (1 + NEAR_LEVEL))
    else:
        readings = readings[-enough:]
    if not 0 < enough <= len(readings):
        return False
    windows = (sum(readings[start : start + enough], ()) for start in range(len(readings) - enough + 1))
    return any(max(window) <= min(window) * (1 + STEADY_WITHIN) for window in windows)
