"""What every emulated arm64 board starts from, made of Debian's packages without running arm64 code.

<HWPRUNE_BOARDS, or hwprune-boards in the temp folder>/<digest of this file>/
    root/         an arm64 system: the lower layer of boards that share the host's kernel
    disk.ext4     the same as a disk: what the disks of whole machines start from
    vmlinuz, initrd.gz
    host, user    keys: of all boards, and to log in to them
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Of the machine's own Debian release, with what they depend on.
PACKAGES = (
    "base-passwd",
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "grep",
    "hostname",
    "iproute2",
    "linux-image-cloud-arm64",
    "openssh-server",
    "procps",
    "python3",
    "sed",
)

#: What a machine loads to get at its disk and network, in this order; a kernel that has one built in lacks the file.
MODULES = (
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio_mmio",
    "drivers/block/virtio_blk",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/char/hw_random/virtio-rng",
    "net/sched/sch_netem",
)

#: Commands that busybox stands in for.
APPLETS = ("insmod", "mount", "ping", "reboot", "umount")

#: No limit of time for logging in: where time is counted in instructions, it is no measure of waiting.
SSHD = """\
Port 22
HostKey /etc/ssh/host
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
LoginGraceTime 0
ClientAliveInterval 15
"""

#: First process of a whole machine, in memory, until the disk is there.
FIRST_INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
while read module; do $b insmod /modules/$module; done </modules/order
for n in 0 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] || $b sleep 0.2; done
$b mount -t ext4 /dev/vda /new || $b poweroff -f
$b ip link set lo up
$b ip link set eth0 up
$b ip addr add 10.0.2.15/24 dev eth0
$b ip route add default via 10.0.2.2
for folder in proc sys dev; do $b mount --move /$folder /new/$folder; done
exec $b switch_root /new /etc/board_init
"""

#: First process of a whole machine, on its disk.
INIT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm /run/sshd
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 none /sys/fs/cgroup
hostname board
while :; do
    /usr/sbin/sshd -D -e -f /etc/ssh/board
    sleep 1
done
"""


@dataclass(frozen=True)
class Base:
    """The files that boards start from.

    Attributes:
        folder: where they lie.
    """

    folder: Path

    @property
    def root(self) -> Path:
        """The arm64 system; nobody writes to it."""
        return self.folder / "root"

    @property
    def disk(self) -> Path:
        """The same as a disk; nobody writes to it."""
        return self.folder / "disk.ext4"

    @property
    def identity(self) -> Path:
        """Private key to log in to any board as root."""
        return self.folder / "user"

    @property
    def host_key(self) -> str:
        """Public host key of all boards, without its comment."""
        return " ".join((self.folder / "host.pub").read_text().split()[:2])


def base() -> Base:
    """The files that boards start from; built if they are not there, which takes a minute or two."""
    folder = Path(os.environ.get("HWPRUNE_BOARDS") or Path(tempfile.gettempdir()) / "hwprune-boards")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = folder / hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may want the same
        if not done.exists():
            draft = folder / "draft"
            shutil.rmtree(draft, ignore_errors=True)
            build(Base(draft))
            draft.rename(done)
    return Base(done)


def build(files: Base) -> None:
    """Make all files."""
    files.folder.mkdir()
    for name in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", files.folder / name)
    unpack_root(files.root)
    configure_root(files)
    compile_python(files.root)
    make_boot_files(files)
    size_mib = 2 * int(run("du", "-sm", files.root).split()[0])
    run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", files.root, files.disk, f"{size_mib}M")


def unpack_root(root: Path) -> None:
    """Unpack the packages; none of their scripts is run."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release["VERSION_CODENAME"].strip('"')
    exclude = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "i18n", "locale", "man")]
    options = ["--quiet", "--arch=arm64", "--variant=extract", "--mode=root", '--aptopt=Acquire::Languages "none"']
    run("mmdebstrap", *options, *exclude, f"--include={','.join(PACKAGES)}", suite, root, mirror(suite))


def mirror(suite: str) -> str:
    """Where this machine gets its packages from.

    Raises:
        RuntimeError: apt knows of none.
    """
    form = "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)"
    for line in run("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines():
        *source, address = line.split()
        if source == ["Debian", suite, "main"]:
            return address
    raise RuntimeError(f"apt has no list of Debian {suite}: run apt-get update")


def configure_root(files: Base) -> None:
    """Do what the packages' scripts would have done, as far as it is needed."""
    root = files.root
    for link, target in (("sh", "dash"), *((name, "busybox") for name in APPLETS)):
        if not (root / "bin" / link).exists():
            (root / "bin" / link).symlink_to(target)
    users = (root / "usr/share/base-passwd/passwd.master").read_text().replace("root:*:", "root:x:", 1)
    write(root / "etc/passwd", users + "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n")
    write(root / "etc/group", (root / "usr/share/base-passwd/group.master").read_text())
    write(root / "etc/shadow", "root:*:19000:0:99999:7:::\nsshd:!:19000::::::\n", 0o640)
    write(root / "etc/hosts", "127.0.0.1 localhost\n")
    write(root / "etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    write(root / "etc/ssh/board", SSHD)
    write(root / "etc/ssh/host", (files.folder / "host").read_text(), 0o600)
    write(root / "etc/board_init", INIT, 0o755)
    write(root / "root/.ssh/authorized_keys", (files.folder / "user.pub").read_text(), 0o600)
    for folder, mode in (("root/.ssh", 0o700), ("root", 0o700), ("run/sshd", 0o755)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).chmod(mode)


def compile_python(root: Path) -> None:
    """Compile Python's library for boards of this interpreter's version: in an emulator it would take half a minute."""
    library = root / f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
    if library.exists():
        options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/"]
        run(sys.executable, "-m", "compileall", *options, library)


def make_boot_files(files: Base) -> None:
    """Take the kernel out of the root, and what it needs until it can mount its disk."""
    (image,) = (files.root / "boot").glob("vmlinuz-*")
    (modules,) = (files.root / "lib/modules").glob("*/kernel")
    image.rename(files.folder / "vmlinuz")
    initrd = files.folder / "initrd"
    for folder in ("bin", "dev", "modules", "new", "proc", "sys"):
        (initrd / folder).mkdir(parents=True)
    shutil.copy(files.root / "bin/busybox", initrd / "bin")
    order = []
    for module in MODULES:
        for found in modules.glob(f"{module}.ko*"):
            data = found.read_bytes()
            order.append(f"{Path(module).name}.ko\n")
            data = lzma.decompress(data) if found.suffix == ".xz" else data
            (initrd / "modules" / order[-1].strip()).write_bytes(data)
    write(initrd / "modules/order", "".join(order))
    write(initrd / "init", FIRST_INIT, 0o755)
    names = "\n".join(str(path.relative_to(initrd)) for path in sorted(initrd.rglob("*")))
    pack = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=initrd, input=names.encode(), stdout=subprocess.PIPE, check=True
    )
    (files.folder / "initrd.gz").write_bytes(gzip.compress(pack.stdout, 1))
    for folder in (initrd, files.root / "boot", files.root / "lib/modules"):
        shutil.rmtree(folder)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of the board, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def run(*command: object) -> str:
    """What a command prints.

    Raises:
        RuntimeError: it fails; with its last lines.
    """
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {' | '.join(done.stderr.splitlines()[-5:])}")
    return done.stdout
