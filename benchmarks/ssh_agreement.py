"""The same networks on the same cores of this computer, through a local agent and through one behind SSH.

    python benchmarks/ssh_agreement.py [--quick] [--ssh [USER@]HOST[:PORT] [--identity FILE]]

Without --ssh an SSH server of its own is started on loopback, which needs root and openssh-server. Both agents are
measured in turns; judged is the median ratio of a network over all rounds (at most 3 % from 1).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from conditions import print_conditions, print_result
from measuring.dense import planned

from hwprune.cli.console import Console
from hwprune.experiments.candidates import self_test
from hwprune.experiments.devices import add_board, add_local, pin, way_to
from hwprune.experiments.home import Home
from hwprune.experiments.session import DeviceSession, open_session
from hwprune.measurement.jobs import NetworkJob

#: Depth of a ResNet for CIFAR and pixels of its square input.
NETWORKS = ((20, 16), (20, 32), (56, 32))
ROUNDS, ROUNDS_QUICK = 9, 3

SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv HOME={folder}
"""


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{ROUNDS_QUICK} rounds instead of {ROUNDS}")
    parser.add_argument("--ssh", metavar="[USER@]HOST[:PORT]", help="this computer, by a server that runs already")
    parser.add_argument("--identity", metavar="FILE", help="private key to log in there with")
    options = parser.parse_args()
    rounds = ROUNDS_QUICK if options.quick else ROUNDS
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not options.ssh and (os.geteuid() != 0 or not sshd):
        print("skipped: without --ssh, root and openssh-server are needed")
        print_result({"benchmark": "ssh_agreement", "skipped": "neither --ssh nor root with openssh-server"})
        return
    print_conditions()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if options.ssh:
            address, identity, host_key = options.ssh, options.identity, ()
        else:
            address, identity, host_key = stack.enter_context(server(str(sshd), folder / "sshd"))
        home = Home(folder / "home")
        local = add_local(home, "loopback")
        way = pin(way_to(address, identity), given=host_key)
        board = add_board(home, "ssh", way, cores=local.cores, target=local.target)
        console = Console(quiet=True)
        direct, remote = (stack.enter_context(open_session(home, device, console)) for device in (local, board))
        print(f"{'network':<16}{'loopback ms':>12}{'ssh ms':>10}{'ratio':>8}{'as timed':>10}  trust")
        rows = []
        for depth, pixels in NETWORKS:
            row = compare(direct, remote, depth, pixels, rounds)
            print(
                f"{row['network']:<16}{row['loopback_ms']:>12.4f}{row['ssh_ms']:>10.4f}{row['ratio']:>8.3f}"
                f"{row['ratio_as_timed']:>10.3f}  {row['trust']}",
                flush=True,
            )
            rows.append(row)
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print(f"largest difference {worst:.1%} (at most 3 % is asked for)")
    print_result({"benchmark": "ssh_agreement", "rounds": rounds, "worst_difference": worst, "networks": rows})


def compare(direct: DeviceSession, remote: DeviceSession, depth: int, pixels: int, rounds: int) -> dict[str, object]:
    """One network by both, in turns.

    ``ratio`` is of the latencies that hwprune tells, which are given at the clock of the first measurement;
    ``ratio_as_timed`` takes the calls as they were timed.
    """
    bench = planned(direct.device, {"name": "resnet_cifar", "depth": depth}, pixels)
    job = NetworkJob(direct.compiler.network(bench.graph, bench.dense), self_test(bench.dense, bench.example_input))
    told_ms: dict[str, list[float]] = {"loopback": [], "ssh": []}
    timed_ms: dict[str, list[float]] = {"loopback": [], "ssh": []}
    trust = []
    for number in range(rounds):
        # Who comes first changes, so that drift meets both alike.
        for session in (direct, remote) if number % 2 else (remote, direct):
            found = session.measurer.network(job, remeasure=True)
            told_ms[session.device.name].append(found.latency_ms)
            timed_ms[session.device.name].append(found.latency_ms / found.clock_ratio)
            trust.append(found.trust)

    def ratio(values_ms: dict[str, list[float]]) -> float:
        return statistics.median(
            ssh / loopback for ssh, loopback in zip(values_ms["ssh"], values_ms["loopback"], strict=True)
        )

    return {
        "network": f"ResNet-{depth} {pixels}x{pixels}",
        "loopback_ms": statistics.median(told_ms["loopback"]),
        "ssh_ms": statistics.median(told_ms["ssh"]),
        "ratio": ratio(told_ms),
        "ratio_as_timed": ratio(timed_ms),
        "trust": "".join(trust),
    }


@contextlib.contextmanager
def server(sshd: str, folder: Path) -> Iterator[tuple[str, str, tuple[str]]]:
    """An SSH server on loopback; its address, a key to log in with, and its host key."""
    folder.mkdir()
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(port=port, folder=folder))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen([sshd, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "log")])
    try:
        wait_for_port(port)
        yield f"root@127.0.0.1:{port}", str(folder / "user_key"), ((folder / "host_key.pub").read_text(),)
    finally:
        process.terminate()
        process.wait()


def wait_for_port(port: int, seconds: float = 10.0) -> None:
    """Return once somebody listens there."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    main()
