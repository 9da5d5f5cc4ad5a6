import fcntl
import hashlib
import os
import subprocess
import sys

import pytest

from device_agents.agent.folder import LOCK, Folder, LibraryRefused, Taken, file_digest

BUNDLE = "agent-0123456789ab.pyz"


def put(path, contents):
    """A library of these contents; its digest."""
    digest = hashlib.sha256(contents).hexdigest()
    (path / f"{digest}.so").write_bytes(contents)
    return digest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / BUNDLE).write_bytes(b"shipped")
    return Folder(str(tmp_path), str(tmp_path / BUNDLE))


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    assert file_digest(str(tmp_path / "x")) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_a_library_that_is_not_there_is_refused(folder):
    with pytest.raises(LibraryRefused, match=r"not on the device .* put it first"):
        folder.open_path("0" * 64)


def test_a_torn_file_is_refused_and_removed(folder, tmp_path):
    torn = tmp_path / f"{'0' * 64}.so"
    torn.write_bytes(b"half a library")
    with pytest.raises(LibraryRefused, match="torn and is removed"):
        folder.open_path("0" * 64)
    assert not torn.exists()


def test_a_file_that_changed_since_it_was_checked_is_checked_again(folder, tmp_path):
    digest = put(tmp_path, b"library")
    path = folder.open_path(digest)
    (tmp_path / f"{digest}.so").write_bytes(b"another")
    os.utime(path, (2e9, 2e9))
    with pytest.raises(LibraryRefused, match="torn"):
        folder.open_path(digest)


@pytest.mark.parametrize("target", ["library", "secret"])
def test_a_link_is_refused_and_what_it_points_to_is_left_alone(folder, tmp_path, target):
    outside = tmp_path / "outside"
    outside.mkdir()
    digest = put(outside, b"library")
    (outside / "secret").write_bytes(b"not a library")
    pointed = outside / (f"{digest}.so" if target == "library" else "secret")
    (tmp_path / f"{digest}.so").symlink_to(pointed)
    with pytest.raises(LibraryRefused, match="a link or no file"):
        folder.open_path(digest)
    folder.clean(())
    assert not (tmp_path / f"{digest}.so").is_symlink()
    assert pointed.exists()


def test_a_folder_or_a_pipe_with_the_name_of_a_library_is_refused(folder, tmp_path):
    (tmp_path / f"{'1' * 64}.so").mkdir()
    os.mkfifo(tmp_path / f"{'2' * 64}.so")
    for digit in "12":
        with pytest.raises(LibraryRefused, match="no file"):
            folder.open_path(digit * 64)
    assert folder.clean(()) == 0


def test_libraries_unused_for_the_longest_are_dropped_first_but_none_that_is_used(folder, tmp_path):
    digests = [put(tmp_path, bytes([number]) * 100) for number in range(4)]
    for digest in [digests[2], digests[0], digests[3], digests[1], digests[0]]:
        folder.open_path(digest)
    folder.bytes_max = 200 + len("shipped")
    assert folder.make_room({digests[2]}) == [digests[3], digests[1]]
    assert folder.held() == sorted([digests[0], digests[2]])
    folder.bytes_max = 0
    assert folder.make_room({digests[2]}) == [digests[0]]
    assert folder.held() == [digests[2]]


def test_the_order_of_use_holds_when_the_clock_has_jumped(folder, tmp_path):
    first, second = put(tmp_path, b"1" * 100), put(tmp_path, b"2" * 100)
    os.utime(tmp_path / f"{first}.so", (4e9, 4e9))  # put when the board believed to be in the year 2096
    folder.open_path(second)
    folder.bytes_max = 100 + len("shipped")
    assert folder.make_room(()) == [first]


def test_using_a_library_does_not_make_it_look_changed(folder, tmp_path):
    digest = put(tmp_path, b"library")
    before = os.stat(tmp_path / f"{digest}.so").st_mtime_ns
    folder.open_path(digest)
    assert os.stat(tmp_path / f"{digest}.so").st_mtime_ns == before


def test_cleaning_leaves_the_running_file_the_lock_what_is_used_and_what_is_not_ours(folder, tmp_path):
    folder.lock("a test")
    used, unused = put(tmp_path, b"used"), put(tmp_path, b"unused")
    compiled = BUNDLE.replace(".pyz", ".a70d0d0a.0123456789ab.pyz")
    (tmp_path / compiled).write_bytes(b"bytecode")
    (tmp_path / "agent-ba9876543210.pyz").write_bytes(b"older")
    (tmp_path / f"{'3' * 64}.so.77.part").write_bytes(b"half")
    (tmp_path / "agent-ba9876543210.77.part").write_bytes(b"half")
    theirs = ["thesis.txt", "libc.so", f"{'A' * 64}.so", f"{'4' * 64}.so.txt", "agent-notes.pyz"]
    for name in theirs:
        (tmp_path / name).write_bytes(b"theirs")
    assert folder.clean({used}) == len("unused") + len("older") + 2 * len("half")
    assert not (tmp_path / f"{unused}.so").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([BUNDLE, compiled, LOCK, f"{used}.so", *theirs])


def test_parts_that_nobody_sends_any_more_are_removed_by_the_next_holder(folder, tmp_path):
    part = tmp_path / f"{'3' * 64}.so.77.part"
    part.write_bytes(b"half")
    shipped = tmp_path / "agent-ba9876543210.pyz.77.part"  # another host may be on its way to be told that it is busy
    shipped.write_bytes(b"half")
    folder.lock("a test")
    assert not part.exists()
    assert shipped.exists()


def test_a_second_agent_is_told_who_holds_the_folder(folder, tmp_path):
    descriptor = folder.lock("anna@laptop (process 7)")
    with pytest.raises(Taken, match=r"anna@laptop \(process 7\)"):
        Folder(str(tmp_path), BUNDLE).lock("ben")
    os.close(descriptor)
    os.close(Folder(str(tmp_path), BUNDLE).lock("ben"))
    assert (tmp_path / LOCK).read_text() == "ben\n"


def test_names_that_are_no_ascii_do_not_harm_the_lock(folder, tmp_path):
    descriptor = folder.lock("ännä\ud800\n")
    assert (tmp_path / LOCK).read_bytes().isascii()
    os.close(descriptor)


def test_a_lock_that_is_a_link_is_not_followed(folder, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        folder.lock("a test")
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_lock_is_free_when_its_holder_was_killed(folder, tmp_path):
    code = (
        "import sys, time\n"
        "from device_agents.agent.folder import Folder\n"
        "Folder(sys.argv[1], 'x').lock('the dead')\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Taken, match="the dead"):
            folder.lock("the next")
        holder.kill()
    os.close(folder.lock("the next"))


def test_children_do_not_inherit_the_lock(folder, tmp_path):
    descriptor = folder.lock("a test")
    command = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as child:
        assert child.stdout.readline() == b"up\n"
        os.close(descriptor)
        with open(tmp_path / LOCK) as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert child.poll() is None
        child.stdin.close()


def test_what_is_free_on_the_disk_is_told(folder, tmp_path):
    assert 0 < folder.free_bytes() <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
