from device_agents.reach import transport_to
from device_agents.registry import Device, SshWay
from device_agents.ssh import SshTransport
from device_agents.transport import LoopbackTransport

WAY = SshWay(address="root@board", host_keys={"board": "ssh-ed25519 AAAA"})


def test_this_computer_is_reached_by_loopback(tmp_path):
    device = Device(name="local", transport="local", platform="cpu", target={})
    assert isinstance(transport_to(device, tmp_path), LoopbackTransport)


def test_a_board_is_reached_by_ssh(tmp_path):
    device = Device(name="board", transport="ssh", platform="cpu", target={}, ssh=WAY)
    assert isinstance(transport_to(device, tmp_path), SshTransport)
