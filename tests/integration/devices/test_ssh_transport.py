"""An agent on the other side of a real sshd: it is started, measured with, fed and ended as on this computer."""

from __future__ import annotations

import functools
import os
import stat
import subprocess
import sys
import threading

import pytest
from servers import CORE, INPUT, SELF_TEST, agree, lowest_ms, wait_for

from device_agents import bundle
from device_agents.client import AgentClient, TimingRequest
from device_agents.errors import AgentError, AgentLost, BoardUnfit, DeviceBusy
from device_agents.protocol import BadRequest
from device_agents.reach import transport_to
from device_agents.registry import Device
from device_agents.ssh import SshConnections, SshTransport
from device_agents.transport import LoopbackTransport

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(120)]

QUICK = {"blocks": 3, "block_ms_min": 1.0, "warmup_ms_max": 20.0}


def test_a_library_is_put_tested_run_and_measured_and_nothing_is_left(sshd, build, tmp_path):
    path, digest = build()
    device = Device(name="board", transport="ssh", platform="cpu", target={}, ssh=sshd.way())
    with AgentClient(transport_to(device, tmp_path / "unused")) as client:
        client.put(path, digest)
        loaded = client.load(digest, self_test=SELF_TEST)
        assert client.run(loaded.handle, INPUT) == SELF_TEST.expected_bytes
        (result,) = client.measure([TimingRequest(loaded.handle)], **QUICK)
        assert len(result.blocks) == 3
        assert client.describe()["cores"]
        assert len(sshd.processes()) == 2  # the agent and the library
    assert sshd.processes() == {}
    assert not (tmp_path / "unused").exists()
    (compiled,) = (file.name for file in sshd.agents_folder.glob("agent-*.*.*.pyz"))
    left = {file.name for file in sshd.agents_folder.glob("*.[sp]*")}
    assert left == {bundle.name(), compiled, f"{digest}.so"}


def test_a_second_start_sends_nothing_again(sshd, log_in):
    log_in(sshd).close()
    sent = sshd.agents_folder / bundle.name()
    before = sent.stat()
    log_in(sshd).close()
    assert sent.stat().st_mtime_ns == before.st_mtime_ns


def test_a_torn_agent_on_the_board_is_replaced(sshd, log_in):
    sshd.agents_folder.mkdir(parents=True)
    (sshd.agents_folder / bundle.name()).write_bytes(bundle.contents()[:1000])
    assert log_in(sshd).state()
    assert (sshd.agents_folder / bundle.name()).read_bytes() == bundle.contents()


def test_the_agents_folder_is_its_users_alone(sshd, log_in):
    log_in(sshd)
    assert stat.S_IMODE(sshd.agents_folder.stat().st_mode) == 0o700


def test_a_folder_with_every_mark_of_a_shell_is_a_folder(sshd, log_in):
    name = "a b'c\"d;touch pwned;$(touch pwned)`touch pwned`&|<>*?\\!#"
    assert log_in(sshd, folder=name).state()
    assert (sshd.home / name / bundle.name()).exists()
    assert not (sshd.home / "pwned").exists()


def test_an_interpreter_with_every_mark_of_a_shell_is_a_name(sshd, log_in):
    odd = sshd.home / "my python;touch pwned $(touch pwned)"
    odd.symlink_to(sys.executable)
    assert log_in(sshd, python=str(odd)).state()
    assert not (sshd.home / "pwned").exists()


@pytest.mark.parametrize("name", ["../x.so", "/x.so", "a/x.so", ""])
def test_a_file_cannot_be_put_outside_the_folder(sshd, tmp_path, name):
    with pytest.raises(BadRequest):
        SshTransport(sshd.way()).put(name, tmp_path)


def test_what_start_up_files_print_does_no_harm(sshd, log_in, build):
    (sshd.home / ".bashrc").write_text("echo 'Welcome to this board'; printf 'no newline'; echo complaint >&2\n")
    sshd.restart(f"SetEnv BASH_ENV={sshd.home}/.bashrc HOME={sshd.home} HWPRUNE_TEST_BOARD={sshd.folder}")
    client = log_in(sshd)
    client.put(*build())
    assert client.state()


def test_much_on_standard_error_stops_nothing(sshd, log_in, build):
    """A library that prints megabytes while it is measured fills no window."""
    path, digest = build("PRINT")
    client = log_in(sshd)
    client.put(path, digest)
    loaded = client.load(digest)
    results = client.measure([TimingRequest(loaded.handle)], blocks=20, block_ms_min=50.0, warmup_ms_max=20.0)
    assert results[0].error is None
    assert len(results[0].blocks) == 20


def test_a_large_file_arrives_whole(sshd, tmp_path):
    data = os.urandom(20_000_001)
    (tmp_path / "blob").write_bytes(data)
    transport = SshTransport(sshd.way())
    transport.start()
    transport.put("blob.so", tmp_path / "blob")
    transport.put("blob.so", tmp_path / "blob")
    assert (sshd.agents_folder / "blob.so").read_bytes() == data
    assert not list(sshd.agents_folder.glob("*.part"))
    transport.close()


def test_a_file_that_is_not_there_is_told(sshd, log_in, tmp_path):
    with pytest.raises(AgentLost, match="cannot be read"):
        log_in(sshd).put(tmp_path / "missing", "0" * 64)


def test_parts_of_long_ago_are_swept_and_fresh_ones_kept(sshd, log_in):
    sshd.agents_folder.mkdir(parents=True)
    for name, age_s in {"old.so.1.part": 7200, "fresh.so.2.part": 60}.items():
        (sshd.agents_folder / name).touch()
        then = (sshd.agents_folder / name).stat().st_mtime - age_s
        os.utime(sshd.agents_folder / name, (then, then))
    log_in(sshd)
    assert [file.name for file in sshd.agents_folder.glob("*.part")] == ["fresh.so.2.part"]


def test_a_second_agent_in_the_same_folder_is_refused(sshd, log_in):
    log_in(sshd)
    with pytest.raises(DeviceBusy):
        log_in(sshd)
    wait_for(lambda: len(sshd.processes()) == 1)


def test_a_board_without_python_is_told(sshd, log_in):
    with pytest.raises(BoardUnfit, match=r"cannot run python3\.99 .* install Python 3\.8 or newer"):
        log_in(sshd, python="python3.99")
    wait_for(lambda: not sshd.processes())


def test_a_python_that_is_too_old_is_told(sshd, log_in):
    old = sshd.home / "old-python"
    version = "import sys; sys.version_info = (3, 6, 9, 'final', 0)"
    old.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} -I -S -c "{version}\n$1"\n')
    old.chmod(0o755)
    with pytest.raises(BoardUnfit, match=r"Python 3\.6 is too old, 3\.8 or newer is needed"):
        log_in(sshd, python=str(old))
    wait_for(lambda: not sshd.processes())


def test_an_account_without_a_shell_is_told(sshd, log_in):
    sshd.restart("ForceCommand echo 'This account is not available.'; exit 1")
    with pytest.raises(BoardUnfit, match="This account is not available"):
        log_in(sshd)


def test_a_folder_that_libraries_cannot_be_loaded_from_is_told(sshd, log_in, tmp_path):
    mounted = tmp_path / "noexec"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(mounted)], check=False).returncode:
        pytest.skip("this system mounts no tmpfs")
    try:
        with pytest.raises(BoardUnfit, match="is mounted noexec"):
            log_in(sshd, folder=str(mounted / "agent"))
        wait_for(lambda: not sshd.processes())
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_folder_that_cannot_be_made_is_told_with_the_boards_reason(sshd, log_in):
    (sshd.home / "file").touch()
    with pytest.raises(AgentError, match=r"cannot be written to file/agent on .*: Not a directory"):
        log_in(sshd, folder="file/agent")


def test_many_boards_are_measured_at_once(start_server, build, log_in):
    """Each conversation from a thread of its own, as a program with several devices does."""
    servers = [start_server(f"board{number}") for number in range(4)]
    path, digest = build()
    found = {}

    def measure(server):
        client = log_in(server, connections)
        client.put(path, digest)
        handle = client.load(digest, self_test=SELF_TEST).handle
        found[server.port] = client.measure([TimingRequest(handle)], **QUICK)[0].error

    with SshConnections() as connections:
        threads = [threading.Thread(target=measure, args=(server,)) for server in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {server.port: None for server in servers}


def test_this_computer_describes_itself_alike_by_loopback_and_over_ssh(sshd, log_in, tmp_path):
    with AgentClient(LoopbackTransport(tmp_path / "here")) as here:
        assert log_in(sshd, python=sys.executable).describe() == here.describe()


def test_this_computer_is_as_fast_by_loopback_and_over_ssh(sshd, log_in, build, tmp_path):
    path, digest = build("KERNELS")
    with AgentClient(LoopbackTransport(tmp_path / "here")) as here:
        clients = [here, log_in(sshd, python=sys.executable)]
        handles = []
        for client in clients:
            client.put(path, digest)
            handles.append(client.load(digest, cores=[CORE]).handle)
        one, other = (functools.partial(lowest_ms, *pair) for pair in zip(clients, handles, strict=True))
        assert agree(one, other, 0.03)
