import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agents.errors import Unreachable
from device_agents.ssh_config import route, split_address


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "config").write_text(text)
        return tmp_path / "config"

    return write


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("host", (None, "host", None)),
        ("user@host", ("user", "host", None)),
        ("user@host.example:2222", ("user", "host.example", 2222)),
        ("10.0.0.2:22", (None, "10.0.0.2", 22)),
        ("root@[fe80::1%eth0]:2222", ("root", "fe80::1%eth0", 2222)),
        ("[::1]", (None, "::1", None)),
        ("ssh://user@host:2222/", ("user", "host", 2222)),
    ],
)
def test_an_address_is_taken_apart(address, parts):
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "@host", "-oProxyCommand=x", "user@-host", "host:port", "a b", "host;x", "$(x)", "a\nb", "::1"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(Unreachable, match="is no address"):
        split_address(address)


@given(st.text(max_size=40))
def test_no_text_gets_into_a_command_with_a_mark_of_a_shell(text):
    try:
        _, host, _ = split_address(text)
    except Unreachable:
        return
    assert not set(host) & set(" \t\n\"'`$;&|<>()\\*?!#~")
    assert not host.startswith("-")


def test_without_a_configuration_the_board_is_what_was_typed(tmp_path):
    (board,) = route("me@board:2222", None, tmp_path / "missing")
    assert (board.name, board.port, board.user, board.known_as) == ("board", 2222, "me", "[board]:2222")
    assert not board.identities


def test_port_22_is_known_by_the_bare_name(tmp_path):
    assert route("me@board", None, tmp_path / "missing")[0].known_as == "board"


def test_an_alias_gives_everything(config):
    text = (
        "Host pi*\n HostName 10.0.0.7\n Port 2200\n User pi\n IdentityFile ~/pi\n IdentitiesOnly yes\n HostKeyAlias pi4"
    )
    (board,) = route("pi4", None, config(text))
    assert (board.name, board.port, board.user, board.known_as) == ("10.0.0.7", 2200, "pi", "[pi4]:2200")
    assert board.identities[0].endswith("/pi")
    assert board.only_identities


@pytest.mark.parametrize(
    ("line", "agent"),
    [
        ("", None),
        ("IdentityAgent SSH_AUTH_SOCK", None),
        ("IdentityAgent none", ""),
        ("IdentityAgent $MY_AGENT", "/run/mine"),
        ("IdentityAgent ${MY_AGENT}", "/run/mine"),
        ("IdentityAgent $NOT_SET", ""),
        ('IdentityAgent "~/my agents/sock"', "/home/me/my agents/sock"),
        ("IdentityAgent %d/%n/%h-%p-%r%%.sock", "/home/me/pi/10.0.0.7-2200-root%.sock"),
        ("IdentityAgent /run/${MY_NAME}/%x", "/run/sock/%x"),
    ],
)
def test_the_users_agent_is_named_as_openssh_has_it(config, monkeypatch, line, agent):
    for name, value in {"HOME": "/home/me", "MY_AGENT": "/run/mine", "MY_NAME": "sock"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOT_SET", raising=False)
    (board,) = route("pi", None, config(f"Host pi\n HostName 10.0.0.7\n Port 2200\n User root\n {line}\n"))
    assert board.identity_agent == agent


def test_what_was_typed_wins(config):
    text = "Host pi\n HostName 10.0.0.7\n Port 2200\n User pi\n ProxyCommand relay %r %h %p"
    (board,) = route("root@pi:22", None, config(text))
    assert (board.user, board.port) == ("root", 22)
    assert board.proxy_command == "relay root 10.0.0.7 22"


def test_a_named_identity_is_the_only_one_for_the_board_and_one_more_for_jump_hosts(config):
    text = "Host pi\n ProxyJump gate\n IdentityFile a\nHost gate\n IdentityFile b\n"
    gate, board = route("pi", "mine", config(text))
    assert board.identities == ("mine",)
    assert board.only_identities
    assert gate.identities == ("b", "mine")


def names(*arguments):
    return [hop.name for hop in route(*arguments)]


def test_jump_hosts_come_in_order_of_travel(config):
    text = "Host pi\n ProxyJump root@one:2200,two\nHost two\n HostName 10.0.0.2\n"
    path = config(text)
    assert names("pi", None, path) == ["one", "10.0.0.2", "pi"]
    first = route("pi", None, path)[0]
    assert (first.user, first.port) == ("root", 2200)


def test_a_jump_host_has_a_jump_host_of_its_own(config):
    assert names("pi", None, config("Host pi\n ProxyJump b\nHost b\n ProxyJump a\n")) == ["a", "b", "pi"]


def test_a_second_jump_host_is_reached_through_the_first_whatever_its_own_way(config):
    text = "Host pi\n ProxyJump a,b\nHost b\n ProxyJump elsewhere\n ProxyCommand relay\n"
    way = route("pi", None, config(text))
    assert [hop.name for hop in way] == ["a", "b", "pi"]
    assert all(hop.proxy_command is None for hop in way)


@pytest.mark.parametrize("none", ["ProxyJump none", "ProxyCommand none"])
def test_none_switches_jumping_off(config, none):
    assert names("pi", None, config(f"Host pi\n {none}\nHost *\n ProxyJump gate\n")) == ["pi"]


def test_of_jump_and_command_the_first_one_counts(config):
    assert len(route("pi", None, config("Host pi\n ProxyCommand relay\n ProxyJump gate\n"))) == 1
    assert len(route("pi", None, config("Host pi\n ProxyJump gate\n ProxyCommand relay\n"))) == 2


def test_a_circle_of_jump_hosts_is_told(config):
    with pytest.raises(Unreachable, match="leads in a circle"):
        route("pi", None, config("Host pi\n ProxyJump gate\nHost gate\n ProxyJump pi\n"))


def test_included_files_count_and_their_blocks_end_with_them(config, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/pi.conf").write_text("Host pi\n HostName 10.0.0.7\n")
    (board,) = route("pi", None, config("Include more/*.conf nothing\nUser everyone\nHost other\n User nobody\n"))
    assert (board.name, board.user) == ("10.0.0.7", "everyone")


def test_files_that_include_each_other_are_told(config):
    with pytest.raises(Unreachable, match="leads in a circle"):
        route("pi", None, config("Include config\n"))


@pytest.mark.parametrize("text", ["Host 'pi\n", "noise\n", "Port many\n", "Match nonsense\n"])
def test_a_configuration_that_cannot_be_used_is_told(config, text):
    with pytest.raises(Unreachable, match=r"SSH configuration .* mend it there"):
        route("pi", None, config(text))
