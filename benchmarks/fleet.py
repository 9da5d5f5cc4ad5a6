"""Many boards behind one jump host, added from one inventory and profiled side by side; one is killed, one frozen.

    python benchmarks/fleet.py [--hosts 30] [--quick]

The boards are SSH servers in network namespaces of this computer, so this needs root, openssh-server and iproute2, and
says nothing of speed: all of them share its cores. Each sees a /proc of its own that does not tell of the others' work.
What is looked at: a profile for every board but two, one clear reason for each of these, that nothing hangs, and what
memory and disk it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from conditions import print_conditions, print_result
from measuring.hosts import MARK, Network, Server, missing, run, send, wait_for

#: Hosts, and those of the quick form, which has little patience with lost boards, too.
HOSTS, QUICK_HOSTS, QUICK_WAITS_S = 30, 4, (0.5, 1.0)

#: The command; a file, because parts of a fleet import what the command was started by.
COMMAND = """\
import hwprune.experiments.session as session
from hwprune.cli import main

session.RECONNECT_WAITS_S = {waits} or session.RECONNECT_WAITS_S

if __name__ == "__main__":
    main()
"""

#: A network that is profiled in seconds.
NETWORK = """\
from torch import nn


def build(num_classes: int, in_channels: int) -> nn.Module:
    body = [nn.Conv2d(in_channels, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes))
"""
PROBLEM = """\
network: "tiny:build"
data: {name: digits, size: 8, channels: 3}
evaluation: {threads: 1, bn_images: 0}
"""

LONGEST_S = 1500.0


def main() -> None:
    """Build the hosts, add and profile them, print what became of each, and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, help="30, if nobody says")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_HOSTS} hosts, and little patience")
    options = parser.parse_args()
    print_conditions()
    if reason := missing():
        print(f"not run: {reason}")
        return print_result({"benchmark": "fleet", "skipped": True})
    count = options.hosts or (QUICK_HOSTS if options.quick else HOSTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, QUICK_WAITS_S if options.quick else ())
        with contextlib.closing(Network(folder / "hosts")) as network:
            boards = start_hosts(folder, network, count)
            with Resources(folder) as resources:
                result = judge(folder, boards)
            print_result({**result, **resources.facts()})


def prepare(folder: Path, waits_s: tuple[float, ...]) -> None:
    """What a user has: a network, a problem, an SSH configuration."""
    (folder / "command.py").write_text(COMMAND.format(waits=waits_s))
    (folder / "tiny.py").write_text(NETWORK)
    (folder / "problem.yaml").write_text(PROBLEM)
    (folder / ".ssh").mkdir()
    (folder / "hosts").mkdir()


def start_hosts(folder: Path, network: Network, count: int) -> dict[str, Server]:
    """Boards behind one jump host, and the inventory file that names them."""
    began = time.monotonic()
    jump = network.host("jump")
    config = (
        f"Host jump\n  HostName {jump.address}\n  User root\n  IdentityFile {jump.user_key}\n  IdentitiesOnly yes\n"
    )
    boards, inventory, cores = {}, {}, sorted(os.sched_getaffinity(0))
    for number in range(count):
        name = f"board{number:02d}"
        board = boards[name] = network.host(name, behind=jump)
        proc = board.folder / "root/proc"
        proc.mkdir(parents=True)
        shutil.copy("/proc/cpuinfo", proc)
        board.restart(f"SetEnv HOME={board.home} {MARK}={board.folder} HWPRUNE_ROOT={proc.parent}")
        config += f"Host {board.address}\n  ProxyJump jump\n"
        inventory[name] = {
            "ssh": f"root@{board.address}",
            "host_key": [jump.host_key, board.host_key],
            "identity": str(board.user_key),
            "cores": [cores[number % len(cores)]],
        }
    (folder / ".ssh/config").write_text(config)
    (folder / "boards.yaml").write_text(yaml.safe_dump(inventory))
    print(f"{count} boards behind a jump host stand after {time.monotonic() - began:.0f} s", flush=True)
    return boards


def judge(folder: Path, boards: dict[str, Server]) -> dict[str, Any]:
    """Add and profile the boards, two of which do not live to see the end."""
    began = time.monotonic()
    added = start(folder, "device", "add", "--from", "boards.yaml", "--json")
    outcomes = json.loads(added.communicate(timeout=LONGEST_S)[0])
    adding_s = time.monotonic() - began
    statuses = [outcome["status"] for outcome in outcomes]
    print(f"added {statuses.count('added')} of {len(boards)} in {adding_s:.0f} s", flush=True)
    if missing_ones := [outcome for outcome in outcomes if outcome["status"] != "added"]:
        sys.exit(f"the others cannot be profiled: {json.dumps(missing_ones)}")

    began = time.monotonic()
    killed, frozen = list(boards)[1], list(boards)[2]
    command = start(folder, "device", "profile", *boards, "problem.yaml", "--minutes", "0.02", "--json")
    for name, strike in ((killed, kill), (frozen, freeze)):
        wait_for(lambda name=name: measures(boards[name]) or command.poll() is not None, LONGEST_S)
        strike(boards[name])
        print(f"{name}: {strike.__name__} after {time.monotonic() - began:.0f} s", flush=True)
    parts = {part["name"]: part for part in json.loads(command.communicate(timeout=LONGEST_S)[0])}
    profiling_s = time.monotonic() - began
    for name, part in parts.items():
        told = part["error"]["message"] if part["error"] else f"error {part['result']['mape']:.1f} %"
        print(f"{name}  {told}")
    reasons = {name: part["error"]["kind"] for name, part in parts.items() if part["error"]}
    left = {name: list(board.processes().values()) for name, board in boards.items() if name not in (killed, frozen)}
    return {
        "benchmark": "fleet",
        "hosts": len(boards),
        "added": statuses.count("added"),
        "adding_s": round(adding_s, 1),
        "profiles": sum(part["error"] is None for part in parts.values()),
        "failed": reasons,
        "as_expected": set(reasons) == {killed, frozen},
        "exit_code": command.returncode,
        "profiling_s": round(profiling_s, 1),
        "left_running": {name: processes for name, processes in left.items() if processes},
    }


class Resources:
    """The most memory and disk that is taken while the context lasts, beyond what was taken before.

    Memory is that of the whole computer: other programs count, too.

    Args:
        folder: all files are below it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self._memory_mib = self._disk_mib = 0.0

    def __enter__(self) -> Self:
        self._available_mib = available_mib()
        self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._ended.wait(3.0):
            self._memory_mib = max(self._memory_mib, self._available_mib - available_mib())
            self._disk_mib = max(self._disk_mib, float(run("du", "-sm", str(self._folder), check=False).split()[0]))

    def facts(self) -> dict[str, float]:
        """Both, for programs."""
        return {"memory_mib": round(self._memory_mib), "disk_mib": round(self._disk_mib)}


def available_mib() -> float:
    """Memory of the computer that programs can have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable:"))


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A hwprune command of the user."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "HOME": str(folder), "HWPRUNE_HOME": str(folder / "home"), "PYTHONPATH": path}
    environment.pop("SSH_AUTH_SOCK", None)
    command = [sys.executable, "command.py", *words]
    return subprocess.Popen(
        command, cwd=folder, env={**environment, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    )


def measures(board: Server) -> bool:
    """Whether the board's agent has a library in a process of its own."""
    return any("child.main" in command for command in board.processes().values())


def kill(board: Server) -> None:
    """End the board with all that runs on it."""
    board.stop()


def freeze(board: Server) -> None:
    """Stop all that runs on the board: connections are accepted and never answered."""
    send(signal.SIGSTOP, {int(pid) for pid in run("ip", "netns", "pids", board.inside[-1]).split()})


if __name__ == "__main__":
    main()
