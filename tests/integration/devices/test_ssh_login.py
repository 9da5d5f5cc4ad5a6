"""Who is there, and who may log in: host keys, users' keys, the SSH configuration, and hosts that do not answer."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from servers import free_port, make_key, public_key

from device_agents.client import AgentClient
from device_agents.errors import DeviceError, HostKeyMismatch, LoginRefused, Unreachable
from device_agents.ssh import SshTransport, scan_host_keys

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(60)]


@pytest.fixture
def agent_with(user, monkeypatch, tmp_path):
    """Function that puts a key into an ssh-agent of the test's own."""
    path = tmp_path / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)

    def add(key, passphrase=""):
        give_up = time.monotonic() + 10
        while not path.exists():
            assert time.monotonic() < give_up
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        answer = tmp_path / "askpass"
        answer.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
        answer.chmod(0o700)
        monkeypatch.setenv("SSH_ASKPASS", str(answer))
        monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
        subprocess.run(["ssh-add", "-q", str(key)], check=True, stdin=subprocess.DEVNULL)

    yield add
    process.terminate()
    process.wait()


def refusal(server, kind, **changes):
    """The one line with which the way to a server ends."""
    with pytest.raises(DeviceError) as raised:
        AgentClient(SshTransport(server.way(**changes)))
    assert type(raised.value) is kind
    assert raised.value.exit_code == 3
    assert "\n" not in str(raised.value)
    assert server.processes() == {}
    return str(raised.value)


def test_another_host_key_than_the_pinned_one_is_refused_with_both_fingerprints(sshd, tmp_path):
    pinned = public_key(make_key(tmp_path / "other"))
    text = refusal(sshd, HostKeyMismatch, host_keys={sshd.host: pinned})
    shown = subprocess.run(["ssh-keygen", "-lf", str(sshd.folder / "host_key.pub")], capture_output=True, text=True)
    assert shown.stdout.split()[1] in text
    assert text.count("SHA256:") == 2
    assert "Accepted" not in (sshd.folder / "sshd.log").read_text()


def test_a_host_key_that_has_changed_is_refused(sshd, log_in):
    way = sshd.way()
    log_in(sshd).close()
    make_key(sshd.folder / "host_key")
    sshd.restart()
    assert "is not the pinned one" in refusal(sshd, HostKeyMismatch, host_keys=way.host_keys)


def test_a_host_key_of_another_type_is_refused(sshd):
    way = sshd.way()
    make_key(sshd.folder / "host_key", "ecdsa")
    sshd.restart()
    assert "ecdsa-sha2-nistp256" in refusal(sshd, HostKeyMismatch, host_keys=way.host_keys)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_a_host_with_several_keys_shows_the_pinned_one(sshd, log_in, kind):
    for name in ("rsa", "ecdsa", "ed25519"):
        make_key(sshd.folder / name, name)
    sshd.restart(*(f"HostKey {sshd.folder}/{name}" for name in ("rsa", "ecdsa", "ed25519")))
    assert log_in(sshd, host_keys={sshd.host: public_key(sshd.folder / kind)}).state()


def test_a_host_without_a_pinned_key_is_refused(sshd):
    assert "no host key is pinned" in refusal(sshd, HostKeyMismatch, host_keys={})


def test_a_wrong_key_of_the_user_is_refused_and_named(sshd, tmp_path):
    wrong = make_key(tmp_path / "wrong")
    text = refusal(sshd, LoginRefused, identity=str(wrong))
    assert f"takes none of the keys {wrong}" in text
    assert "ssh-copy-id" in text


def test_a_user_who_is_not_there_is_refused(sshd):
    refusal(sshd, LoginRefused, address=f"nobody-of-this-name@127.0.0.1:{sshd.port}")


def test_a_key_file_that_is_not_there_is_told(sshd, tmp_path):
    assert "missing is not there" in refusal(sshd, LoginRefused, identity=str(tmp_path / "missing"))


def test_a_key_file_that_is_no_key_is_told(sshd, tmp_path):
    (tmp_path / "noise").write_text("noise")
    assert "noise cannot be read" in refusal(sshd, LoginRefused, identity=str(tmp_path / "noise"))


def test_an_encrypted_key_is_told_with_its_remedy(sshd):
    make_key(sshd.user_key, passphrase="secret")
    assert f"is encrypted: 'ssh-add {sshd.user_key}' first" in refusal(sshd, LoginRefused)


def test_an_encrypted_key_is_used_through_ssh_agent(sshd, log_in, agent_with):
    key = make_key(sshd.user_key, passphrase="secret")
    shutil.copy(f"{key}.pub", sshd.folder / "authorized_keys")
    agent_with(key, "secret")
    assert log_in(sshd).state()


def test_a_key_that_only_ssh_agent_has_is_used(sshd, log_in, agent_with):
    agent_with(sshd.user_key)
    sshd.user_key.unlink()
    assert log_in(sshd, identity=None).state()


def test_an_agent_that_the_configuration_names_is_asked(sshd, user, log_in, agent_with, monkeypatch, tmp_path):
    agent_with(sshd.user_key)
    sshd.user_key.unlink()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody"))
    refusal(sshd, LoginRefused, identity=None)
    (user / "config").write_text(f"Host 127.0.0.1\n  IdentityAgent {tmp_path}/agent.sock\n")
    assert log_in(sshd, identity=None).state()


@pytest.mark.parametrize(("named", "words"), [("none", "there is no key"), ("~/nobody", "nobody does not answer")])
def test_an_agent_that_the_configuration_rules_out_is_not_asked(sshd, user, agent_with, named, words):
    agent_with(sshd.user_key)
    sshd.user_key.unlink()
    (user / "config").write_text(f"IdentityAgent {named}\n")
    assert words in refusal(sshd, LoginRefused, identity=None)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_the_users_own_keys_are_found(sshd, user, log_in, kind):
    key = make_key(user / f"id_{kind}", kind)
    shutil.copy(f"{key}.pub", sshd.folder / "authorized_keys")
    assert log_in(sshd, identity=None).state()


def test_many_keys_that_are_not_taken_end_with_advice(sshd, user):
    names = [make_key(user / f"key{number}") for number in range(8)]
    lines = "".join(f"IdentityFile {name}\n" for name in names)
    (user / "config").write_text(lines)
    assert "name the one to log in with" in refusal(sshd, LoginRefused, identity=None)


def test_a_host_that_wants_a_password_is_refused(sshd):
    sshd.restart("AuthenticationMethods publickey,password", "PasswordAuthentication yes")
    assert "wants password beside a key" in refusal(sshd, LoginRefused)


def test_no_password_is_ever_asked_for_or_sent(sshd, tmp_path):
    sshd.restart("PasswordAuthentication yes")
    refusal(sshd, LoginRefused, identity=str(make_key(tmp_path / "wrong")))
    assert sshd.logged("Failed password") == 0


def certify(server, key, *options):
    authority = make_key(server.folder / "authority")
    server.restart(f"TrustedUserCAKeys {authority}.pub")
    (server.folder / "authorized_keys").write_text("")
    words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "tester", "-n", "root", *options, f"{key}.pub"]
    subprocess.run(words, check=True)
    return key.with_name(f"{key.name}-cert.pub")


def test_a_certificate_beside_its_key_is_used(sshd, log_in):
    certify(sshd, sshd.user_key)
    assert log_in(sshd).state()
    assert sshd.logged("ED25519-CERT") > 0


def test_a_certificate_named_by_the_configuration_is_used(sshd, user, log_in):
    certificate = certify(sshd, sshd.user_key).rename(user / "elsewhere.pub")
    (user / "config").write_text(f"CertificateFile {certificate}\n")
    assert log_in(sshd).state()
    assert sshd.logged("ED25519-CERT") > 0


def test_a_certificate_that_has_run_out_is_refused(sshd):
    certify(sshd, sshd.user_key, "-V", "20200101:20200102")
    refusal(sshd, LoginRefused)


def test_an_alias_of_the_configuration_gives_host_port_user_and_key(sshd, user, log_in):
    (user / "config").write_text(f"Include more/*.conf\nHost *\n  IdentityFile {user}/missing\n  IdentitiesOnly yes\n")
    (user / "more").mkdir()
    (user / "more/board.conf").write_text(
        f"Host myboard\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User root\n  IdentityFile {sshd.user_key}\n"
    )
    assert log_in(sshd, address="myboard", identity=None).state()


def test_a_proxy_command_is_gone_through_and_ended(sshd, user, log_in, tmp_path):
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    (user / "config").write_text(f"Host 127.0.0.1\n  ProxyCommand {sys.executable} {relay} %h %p {tmp_path}/used\n")
    client = log_in(sshd)
    assert client.state()
    assert (tmp_path / "used").read_text() == f"127.0.0.1 {sshd.port}"
    client.close()
    assert str(relay) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


RELAY = """\
import os, socket, sys, threading
host, port, used = sys.argv[1:]
open(used, "w").write(host + " " + port)
link = socket.create_connection((host, int(port)))
def pump():
    while data := link.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=pump, daemon=True).start()
while data := os.read(0, 65536):
    link.sendall(data)
"""


@pytest.mark.parametrize("command", ["/no/such/program %h", "false", "'unbalanced %h"])
def test_a_proxy_command_that_fails_is_told(sshd, user, command):
    (user / "config").write_text(f"ProxyCommand {command}\n")
    refusal(sshd, Unreachable)


def test_a_port_that_nobody_listens_on_is_told(sshd):
    text = refusal(sshd, Unreachable, address=f"root@127.0.0.1:{free_port()}")
    assert "refuses connections on port" in text


def test_a_name_that_nobody_has_is_told(sshd):
    assert "no address is known for 'no-such-board.invalid'" in refusal(
        sshd, Unreachable, address="root@no-such-board.invalid"
    )


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [(None, "does not answer as an SSH server within 10 s"), (b"", "hangs up"), (b"HTTP/1.1 400\r\n\r\n", "hangs up")],
)
def test_a_port_without_an_ssh_server_is_told(sshd, answer, complaint):
    """Silent, hanging up at once, or speaking something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve():
            stream, _ = server.accept()
            with stream:
                if answer is None:
                    done.wait(30)
                elif answer:
                    stream.sendall(answer)
                    stream.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        began = time.monotonic()
        assert complaint in refusal(sshd, Unreachable, address=f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 15
        done.set()
        thread.join()


def test_a_frozen_server_does_not_hold_a_login(sshd):
    """The listening process is stopped: the system takes the connection, and nobody ever speaks."""
    listener = int((sshd.folder / "sshd.pid").read_text())
    os.kill(listener, signal.SIGSTOP)
    try:
        assert "is it frozen?" in refusal(sshd, Unreachable)
    finally:
        os.kill(listener, signal.SIGCONT)


def test_a_server_without_a_common_algorithm_is_told(sshd):
    sshd.restart("KexAlgorithms sntrup761x25519-sha512@openssh.com")
    assert "has no algorithm in common with us" in refusal(sshd, Unreachable)


def test_host_keys_are_scanned_before_anyone_logs_in(sshd, user, tmp_path):
    (key,) = scan_host_keys(f"root@127.0.0.1:{sshd.port}")
    shown = subprocess.run(["ssh-keygen", "-lf", str(sshd.folder / "host_key.pub")], capture_output=True, text=True)
    assert key.host == sshd.host
    assert key.line == sshd.host_key
    assert key.fingerprint == shown.stdout.split()[1]
    assert not key.is_known
    assert sshd.logged("Accepted") == 0


@pytest.mark.parametrize("hashed", [False, True])
def test_a_key_in_known_hosts_is_known(sshd, user, hashed):
    known = user / "known_hosts"
    noise = f"# mine\nnoise\n@cert-authority * {sshd.host_key}\n{sshd.host} ssh-ed25519 =\n"
    known.write_text(("" if hashed else noise) + f"{sshd.host} {sshd.host_key}\n")
    if hashed:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    (key,) = scan_host_keys(f"root@127.0.0.1:{sshd.port}")
    assert key.is_known


def test_a_key_that_known_hosts_contradict_is_refused(sshd, user, tmp_path):
    other = public_key(make_key(tmp_path / "other"))
    (user / "known_hosts").write_text(f"{sshd.host} {other}\n")
    with pytest.raises(HostKeyMismatch, match="ssh-keygen -R"):
        scan_host_keys(f"root@127.0.0.1:{sshd.port}")
