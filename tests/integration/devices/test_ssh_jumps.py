"""Boards behind jump hosts: every host key on the way is checked, and boards share the connection to a jump host."""

from __future__ import annotations

import threading
import time

import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_DATA
from servers import SELF_TEST, make_key, public_key, wait_for

from device_agents.client import AgentClient, TimingRequest
from device_agents.errors import AgentLost, HostKeyMismatch, LoginRefused, Unreachable
from device_agents.ssh import SshConnections, SshTransport, hosts_on_the_way, scan_host_keys

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(120)]


@pytest.fixture
def network(namespaces, user):
    """A board that is reached through one jump host or two only, with the user's configuration for both."""
    first = namespaces.host("first")
    second = namespaces.host("second", behind=first)
    for server, name in ((first, "first"), (second, "second")):
        namespaces_key = f"  IdentityFile {server.user_key}\n  IdentitiesOnly yes\n"
        with (user / "config").open("a") as config:
            config.write(f"Host {name}\n  HostName {server.address}\n  User root\n{namespaces_key}")
    return namespaces, first, second


def behind(board, *jumps, user):
    """The way to a board through jump hosts, as the configuration gives it."""
    names = ",".join(jump.folder.name for jump in jumps)
    with (user / "config").open("a") as config:
        config.write(f"Host {board.address}\n  ProxyJump {names}\n")
    keys = {server.host: server.host_key for server in (*jumps, board)}
    return board.way(host_keys=keys)


def measure(way, build, connections=None):
    path, digest = build()
    with AgentClient(SshTransport(way, connections=connections)) as client:
        client.put(path, digest)
        handle = client.load(digest, self_test=SELF_TEST).handle
        (result,) = client.measure([TimingRequest(handle)], blocks=2, block_ms_min=1.0, warmup_ms_max=20.0)
        assert result.error is None


def test_a_board_behind_one_jump_host_is_measured(network, build, user):
    namespaces, first, _ = network
    board = namespaces.host("board", behind=first)
    with pytest.raises(Unreachable):
        AgentClient(SshTransport(board.way()))
    measure(behind(board, first, user=user), build)
    assert board.processes() == first.processes() == {}
    wait_for(lambda: not first.connections())


def test_a_board_behind_two_jump_hosts_is_measured(network, build, user):
    namespaces, first, second = network
    board = namespaces.host("board", behind=second)
    measure(behind(board, first, second, user=user), build)
    assert board.processes() == {}
    wait_for(lambda: not first.connections() | second.connections())


def test_every_key_on_the_way_is_scanned_in_order(network, user):
    namespaces, first, second = network
    board = namespaces.host("board", behind=second)
    way = behind(board, first, second, user=user)
    found = scan_host_keys(way.address, way.identity)
    assert [(key.host, key.line) for key in found] == [
        (server.host, server.host_key) for server in (first, second, board)
    ]
    assert hosts_on_the_way(way.address) == [key.host for key in found]
    assert board.logged("Accepted") == 0


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_wrong_key_anywhere_on_the_way_ends_it_there(network, user, tmp_path, wrong):
    namespaces, first, second = network
    board = namespaces.host("board", behind=second)
    servers = [first, second, board]
    way = behind(board, first, second, user=user)
    other = public_key(make_key(tmp_path / "other"))
    keys = {**way.host_keys, servers[wrong].host: other}
    with pytest.raises(HostKeyMismatch, match=servers[wrong].address):
        AgentClient(SshTransport(way.model_copy(update={"host_keys": keys})))
    assert [bool(server.logged("Accepted")) for server in servers] == [place < wrong for place in range(3)]


def test_a_jump_host_that_takes_no_key_is_named(network, user):
    namespaces, first, _ = network
    board = namespaces.host("board", behind=first)
    way = behind(board, first, user=user)
    (first.folder / "authorized_keys").write_text("")
    with pytest.raises(LoginRefused, match=first.address):
        AgentClient(SshTransport(way))


def test_a_jump_host_that_forwards_nothing_is_told(network, user):
    namespaces, first, _ = network
    board = namespaces.host("board", behind=first)
    way = behind(board, first, user=user)
    first.restart("AllowTcpForwarding no")
    with pytest.raises(Unreachable, match=f"cannot reach {board.address} port 22 through root@{first.address}"):
        AgentClient(SshTransport(way))


def test_many_boards_behind_one_jump_host_share_its_connection(network, build, user):
    """The jump host would drop all but two logins that begin at the same time."""
    namespaces, first, _ = network
    first.restart("MaxStartups 2:100:2", "MaxSessions 2")
    boards = [namespaces.host(f"board{number}", behind=first) for number in range(6)]
    ways = [behind(board, first, user=user) for board in boards]
    failures = []

    def work(way):
        try:
            measure(way, build, connections)
        except Exception as error:
            failures.append(error)

    build()
    with SshConnections() as connections:
        threads = [threading.Thread(target=work, args=(way,)) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
    assert failures == []
    assert first.logged("Accepted publickey") == 1
    wait_for(lambda: not first.connections())
    assert all(board.processes() == {} for board in boards)


def test_what_comes_too_late_for_a_closed_channel_does_not_end_the_connection_that_others_share(sshd):
    """sshd would: paramiko lets a thread send after another one has closed the channel."""
    with SshConnections() as connections:
        connection = connections.to(sshd.way())
        other, closed = connection.run("cat"), connection.run("cat")
        closed.close()
        wait_for(lambda: sshd.logged("Close session"))
        late = paramiko.Message()
        late.add_byte(cMSG_CHANNEL_DATA)
        late.add_int(closed.remote_chanid)
        late.add_string(b"too late")
        closed.transport._send_user_message(late)
        again = connection.run("cat")  # may get the number of the closed one
        for channel in (other, again):
            channel.sendall(b"in time")
            channel.settimeout(10)
            assert channel.recv(7) == b"in time"
        assert connection.is_alive
        connection.close()


def test_a_jump_host_that_freezes_frees_the_caller_within_seconds(network, user):
    namespaces, first, _ = network
    board = namespaces.host("board", behind=first)
    client = AgentClient(SshTransport(behind(board, first, user=user)))
    try:
        first.freeze()
        began = time.monotonic()
        with pytest.raises(AgentLost, match="no sign of life"):
            client.state()
        assert time.monotonic() - began < 7
    finally:
        first.thaw()
        client.close()
    wait_for(lambda: not board.processes())


def test_a_jump_connection_that_broke_is_made_anew(network, build, user):
    namespaces, first, _ = network
    board = namespaces.host("board", behind=first)
    way = behind(board, first, user=user)
    with SshConnections() as connections:
        client = AgentClient(SshTransport(way, connections=connections))
        first.kill()
        with pytest.raises(AgentLost):
            client.state()
        client.close()
        wait_for(lambda: not board.processes())
        measure(way, build, connections)
