import pytest

from device_agents.errors import BoardUnfit, DeviceError
from hwprune.errors import ConfigError
from hwprune.experiments.devices import HostKeyUnconfirmed, check_libc, choose_cores, host_key_line, way_to

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEvYS0x8"


@pytest.mark.parametrize("libc", ["glibc 2.17", "glibc 2.36", "glibc 3.0", "musl", "musl 1.2.4"])
def test_c_libraries_that_load_ours_are_taken(libc: str) -> None:
    check_libc({"libc": libc})


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"libc": "glibc 2.12"}, "is glibc 2.12: libraries need glibc 2.17 or newer, or musl"),
        ({"libc": "glibc"}, "is glibc:"),
        ({"libc": "bionic 1.0"}, "is bionic 1.0"),
        ({"libc": None, "missing": {"libc": "no loader in /lib"}}, r"is unknown \(no loader in /lib\)"),
        ({}, "is unknown"),
    ],
)
def test_other_c_libraries_are_told_with_what_is_needed(facts: dict[str, object], said: str) -> None:
    with pytest.raises(BoardUnfit, match=said):
        check_libc(facts)


@pytest.mark.parametrize(
    ("facts", "threads", "expected"),
    [
        ({"usable_cores": [0, 1, 2, 3]}, 1, (3, 2)),
        ({"usable_cores": [3, 0, 1], "clusters": None}, 2, (1, 3)),
        ({"usable_cores": None}, 4, ()),
        # Strongest first: the big cores of a Raspberry Pi's relatives come last or in the middle.
        ({"usable_cores": [*range(6)], "clusters": [{"cores": [4, 5]}, {"cores": [0, 1, 2, 3]}]}, 1, (5, 4)),
        ({"usable_cores": [*range(6)], "clusters": [{"cores": [0, 1]}, {"cores": [2, 3, 4, 5]}]}, 2, (0, 1)),
        ({"usable_cores": [*range(6)], "clusters": [{"cores": [4, 5]}, {"cores": [0, 1, 2, 3]}]}, 3, (1, 2, 3)),
        ({"usable_cores": [*range(6)], "clusters": [{"cores": [4, 5]}, {"cores": [0, 1, 2, 3]}]}, 5, (1, 2, 3, 4, 5)),
        ({"usable_cores": [0, 1], "clusters": [{"cores": [4, 5]}, {"cores": [0, 1]}]}, 1, (1, 0)),
    ],
)
def test_threads_stay_on_the_strongest_cluster_that_holds_them(
    facts: dict[str, object], threads: int, expected: tuple[int, ...]
) -> None:
    assert choose_cores(facts, threads) == expected


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 threads on 2 usable cores"):
        choose_cores({"usable_cores": [0, 1]}, 3)


@pytest.mark.parametrize(
    "text", [KEY, f"{KEY} root@board", f"[10.0.0.7]:2222 {KEY}", f"10.0.0.7  {KEY}\n", KEY.replace(" ", "\t")]
)
def test_a_host_key_is_found_in_any_line_that_holds_one(text: str) -> None:
    assert host_key_line(text) == KEY


@pytest.mark.parametrize("text", ["", "SHA256:abc", "ssh-ed25519", "ssh-ed25519 ???", "AAAAC3NzaC1lZDI1NTE5"])
def test_what_holds_no_host_key_is_refused_with_what_to_give(text: str) -> None:
    with pytest.raises(ConfigError, match="ssh-keyscan"):
        host_key_line(text)


@pytest.mark.parametrize("address", ["", "-oProxyCommand=x", "a b", "user@", "host:port", "host;reboot"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        way_to(address)


def test_an_identity_is_kept_so_that_it_is_found_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert way_to("board", "key").identity == str(tmp_path / "key")
    assert way_to("board", "~/.ssh/lab").identity == "/home/me/.ssh/lab"
    assert way_to("board").identity is None


def test_an_unconfirmed_key_is_an_error_of_devices() -> None:
    assert issubclass(HostKeyUnconfirmed, DeviceError)
    assert HostKeyUnconfirmed.exit_code == 3
