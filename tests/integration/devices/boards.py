"""Emulated arm64 boards, for function and failure: their latencies say nothing of hardware.

A :class:`MachineBoard` is a whole machine with its own kernel and disk; counted by instructions, its time repeats.
A :class:`UserBoard` is an arm64 system in namespaces of this kernel, which is there sooner.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from board_base import Base, run

from device_agents.registry import SshWay

#: Program -> Debian package, in which `install.sh` finds it.
NEEDS = {
    "cpio": "cpio",
    "ip": "iproute2",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "ssh-keygen": "openssh-client",
}

BOOT_S = 90.0


def missing() -> str | None:
    """Why there can be no boards here; None where there can."""
    if os.geteuid() != 0:
        return "emulated boards need root"
    packages = sorted({package for program, package in NEEDS.items() if not shutil.which(program)})
    return f"emulated boards need tests/integration/devices/install.sh: {', '.join(packages)}" if packages else None


class Board:
    """An arm64 system that answers on SSH as root.

    Attributes:
        host: its address.
        port: of its sshd.
    """

    def __init__(self, base: Base, folder: Path, host: str, port: int) -> None:
        self._base = base
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.host = host
        self.port = port
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def way(self) -> SshWay:
        """The way to it, its host key pinned."""
        known_as = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        return SshWay(
            address=f"root@{self.host}:{self.port}",
            host_keys={known_as: self._base.host_key},
            identity=str(self._base.identity),
        )

    def run(self, command: str, timeout_s: float = 60.0) -> str:
        """What a shell on the board prints.

        Raises:
            RuntimeError: the command fails or is late.
        """
        known = self._folder / "known_hosts"
        ((known_as, key),) = self.way.host_keys.items()
        known.write_text(f"{known_as} {key}\n")
        options = [f"UserKnownHostsFile={known}", "StrictHostKeyChecking=yes", "BatchMode=yes", "LogLevel=ERROR"]
        words = ["ssh", "-F", "none", "-i", self._base.identity, "-p", self.port, *(f"-o{text}" for text in options)]
        return run("timeout", timeout_s, *words, f"root@{self.host}", command)

    def wait(self, timeout_s: float = BOOT_S) -> None:
        """Until its sshd answers.

        Raises:
            TimeoutError: it does not, or the board has ended.
        """
        give_up = time.monotonic() + timeout_s
        while time.monotonic() < give_up and self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 2.0) as connection:
                if connection.recv(4) == b"SSH-":
                    return
            time.sleep(0.1)
        raise TimeoutError(f"no answer from the board, see {self._folder / 'log'}")

    def cut_power(self) -> None:
        """End it at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _start(self, *command: object) -> int:
        """Start the board's process in a group of its own, which ends with this process; its number."""
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._process.pid


class MachineBoard(Board):
    """A whole arm64 machine, with a kernel of its own, 2 processors and 1 GiB of memory.

    Its disk keeps what was written while it is off.

    Args:
        base: what it starts from.
        folder: of its own; its disk and log lie there.
        shift: its only processor takes exactly 2^shift ns an instruction; None for two as fast as they can be emulated.
    """

    def __init__(self, base: Base, folder: Path, shift: int | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            super().__init__(base, folder, "127.0.0.1", free.getsockname()[1])
        self._speed = ("-smp", "2") if shift is None else ("-smp", "1", "-icount", f"shift={shift},sleep=on")
        self._disk = folder / "disk.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base.disk, self._disk)

    def power_on(self) -> None:
        """Boot; returns when it can be logged in to."""
        net = f"user,id=net,restrict=on,hostfwd=tcp:{self.host}:{self.port}-:22"
        disk = f"if=none,id=disk,file={self._disk},format=qcow2,cache=unsafe"
        files = ["-kernel", self._base.folder / "vmlinuz", "-initrd", self._base.folder / "initrd.gz"]
        devices = ["-drive", disk, "-netdev", net]
        for device in ("virtio-blk-device,drive=disk", "virtio-net-device,netdev=net", "virtio-rng-device"):
            devices += ["-device", device]
        machine = ["-M", "virt", "-cpu", "cortex-a72", "-m", "1024", *self._speed, "-nographic"]
        self._start("qemu-system-aarch64", *machine, *files, *devices, "-append", "console=ttyAMA0 quiet panic=1")
        self.wait()

    def reboot(self) -> None:
        """Start anew, as by its reset button; does not wait."""
        with contextlib.suppress(RuntimeError):  # the connection ends with it
            self.run("sync; reboot -f", 10.0)

    def freeze(self) -> None:
        """Stop all of it: what is sent to it is accepted and never answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


class UserBoard(Board):
    """An arm64 system in namespaces of this kernel, at 10.231.<number>.2; what is written is gone when it ends.

    Args:
        base: what it starts from.
        folder: of its own; its log lies there.
        number: 1 to 254, of no other board.
    """

    #: In the namespaces: the root with a layer of its own in memory, and the board's end of the cable.
    _INIT = """\
set -e
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip address add "$1.2/30" dev eth0
ip link set eth0 up
ip link set lo up
mount --make-rprivate /
mount -t tmpfs tmpfs "$3"
mkdir "$3/upper" "$3/scratch" "$3/system"
mount -t overlay -o "lowerdir=$2,upperdir=$3/upper,workdir=$3/scratch" overlay "$3/system"
mount -t proc proc "$3/system/proc"
mount -t sysfs -o ro sysfs "$3/system/sys"
mount --rbind /dev "$3/system/dev"
hostname board
exec chroot "$3/system" /usr/sbin/sshd -D -e -f /etc/ssh/board
"""

    def __init__(self, base: Base, folder: Path, number: int) -> None:
        super().__init__(base, folder, f"10.231.{number}.2", 22)
        self._link = f"hwboard{number}"

    def power_on(self) -> None:
        """Start; returns when it can be logged in to."""
        register_emulator()
        # A board whose link is gone must never be sought through the default route.
        run("ip", "route", "replace", "unreachable", "10.231.0.0/16", "metric", "4000000")
        layers = self._folder / "layers"
        layers.mkdir(exist_ok=True)
        net = self.host.rpartition(".")[0]
        spaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        pid = self._start("unshare", *spaces, "sh", "-c", self._INIT, "sh", net, self._base.root, layers)
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{pid}/ns/net") == own:
            time.sleep(0.01)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "address", "add", f"{net}.1/30", "dev", self._link)
        run("ip", "link", "set", self._link, "up")
        self.wait()


def register_emulator() -> None:
    """Have this kernel run arm64 programs in any root; stays until the next boot."""
    folder = Path("/proc/sys/fs/binfmt_misc")
    if not (folder / "register").exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", folder)
    for entry in folder.glob("qemu-aarch64*"):
        if "flags: " in (text := entry.read_text()) and "F" in text.split("flags: ")[1].split()[0]:
            return
    magic = r"\x7fELF\x02\x01\x01\x00" + r"\x00" * 8 + r"\x02\x00\xb7\x00"
    mask = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"
    program = shutil.which("qemu-aarch64-static")
    # F: the emulator is opened now, so that a root need not have it.
    (folder / "register").write_text(f":qemu-aarch64-hwprune:M::{magic}:{mask}:{program}:F")
