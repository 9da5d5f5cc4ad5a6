import base64

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agents.ssh_config import Hop
from device_agents.ssh_keys import authorities, key_line, known_keys
from device_agents.ssh_known_hosts import entries, matches

#: "board", as ssh-keygen -H writes it.
HASHED = paramiko.HostKeys.hash_host("board", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=")
KEYS = [key_line(paramiko.ECDSAKey.generate()) for _ in range(3)]


@pytest.fixture
def hop(tmp_path):
    """Function that makes a host of which known_hosts say something."""

    def make(text, known_as="board.lab"):
        (tmp_path / "known_hosts").write_text(text)
        return Hop("10.0.0.7", 22, "me", known_as, known_hosts=(str(tmp_path / "known_hosts"),))

    return make


@pytest.mark.parametrize(
    ("patterns", "name", "found"),
    [
        ("board", "board", True),
        ("Board.LAB", "board.lab", True),
        ("*.lab", "board.lab", True),
        ("*.lab", "board.labs", False),
        ("board?", "board7", True),
        ("board?", "board", False),
        ("[board]:2222", "[board]:2222", True),
        ("[board]:2222", "b:2222", False),
        ("*,!board", "board", False),
        ("!board,*", "other", True),
        ("!board", "other", False),
        (HASHED, "board", True),
        (HASHED, "other", False),
        ("|1|no hash", "board", False),
        ("|1|a|b|c", "board", False),
    ],
)
def test_a_pattern_stands_for_some_names(patterns, name, found):
    assert matches(patterns.split(","), name) is found


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_a_pattern_and_a_name(pattern, name):
    assert matches([pattern], name) in (True, False)


def test_keys_authorities_and_what_is_revoked_are_told_apart(hop):
    text = f"@cert-authority *.lab {KEYS[0]} the lab's\n@cert-authority * {KEYS[1]}\n@revoked * {KEYS[1]}\n"
    board = hop(f"# mine\n\nnoise\n@unknown * {KEYS[0]}\n{text}board.lab {KEYS[2]}\nother.lab {KEYS[0]}\n")
    assert known_keys(board) == {KEYS[2].split()[0]: KEYS[2]}
    assert authorities(board) == {KEYS[0]}


def test_an_authority_may_be_named_without_the_port_and_a_host_may_not(hop):
    board = hop(f"@cert-authority board.lab {KEYS[0]}\nboard.lab {KEYS[1]}\n", "[board.lab]:2222")
    assert authorities(board) == {KEYS[0]}
    assert not known_keys(board)


@given(st.binary(max_size=60))
def test_a_file_of_anything_says_nothing_that_is_no_key(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any_known_hosts"
    path.write_bytes(b"board ssh-ed25519 " + base64.b64encode(data) + b"\n@revoked * " + data)
    assert all(entry.key for entry in entries(Hop("board", 22, "me", "board", known_hosts=(str(path),))))
