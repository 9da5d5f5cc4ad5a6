"""Hosts whose keys an authority has certified: known where known_hosts name the authority, asked about where not."""

from __future__ import annotations

import subprocess

import pytest
from servers import make_key, public_key

from device_agents.errors import HostKeyMismatch
from device_agents.ssh import scan_host_keys
from device_agents.ssh_certificates import complaint
from hwprune.experiments.devices import HostKeyUnconfirmed, pin, way_to

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(60)]


@pytest.fixture
def authority(tmp_path):
    """Private key of somebody who certifies hosts."""
    return make_key(tmp_path / "authority")


def certify(server, authority, *options):
    """Have the server show a certificate of its key beside the key itself."""
    key = server.folder / "host_key"
    words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "board", "-h", *options, f"{key}.pub"]
    subprocess.run(words, check=True)
    server.restart(f"HostCertificate {key}-cert.pub")


def scanned(server):
    (key,) = scan_host_keys(f"root@127.0.0.1:{server.port}")
    assert key.line == server.host_key
    return key


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_host_that_a_known_authority_has_certified_is_known_and_its_own_key_is_pinned(
    sshd, user, tmp_path, log_in, kind
):
    make_key(sshd.folder / "host_key", kind)
    signer = make_key(tmp_path / "signer", kind)
    certify(sshd, signer, "-n", "elsewhere,127.0.0.*")
    (user / "known_hosts").write_text(f"@cert-authority *.lab,127.0.0.? {public_key(signer)}\n")
    assert scanned(sshd).is_known
    way = pin(way_to(f"root@127.0.0.1:{sshd.port}", str(sshd.user_key)))
    assert way.host_keys == {sshd.host: sshd.host_key}
    assert log_in(sshd, host_keys=way.host_keys).state()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-n", "127.0.0.1", "-V", "20200101:20200102"), "it is not valid now"),
        (("-n", "127.0.0.1", "-V", "+1d:+2d"), "it is not valid now"),
        (("-n", "elsewhere,other"), "it is for elsewhere, other"),
        ((), "it is for no host by name"),
    ],
)
def test_a_certificate_that_does_not_count_is_told_and_the_key_asked_about(sshd, user, authority, options, why):
    certify(sshd, authority, *options)
    (user / "known_hosts").write_text(f"@cert-authority * {public_key(authority)}\n")
    key = scanned(sshd)
    assert not key.is_known
    assert key.complaint == why
    with pytest.raises(HostKeyUnconfirmed, match="its certificate does not count"):
        pin(way_to(f"root@127.0.0.1:{sshd.port}", str(sshd.user_key)))


def test_a_certificate_by_somebody_else_makes_nobody_known(sshd, user, authority, tmp_path):
    certify(sshd, make_key(tmp_path / "somebody"), "-n", "127.0.0.1")
    (user / "known_hosts").write_text(f"@cert-authority * {public_key(authority)}\n")
    key = scanned(sshd)
    assert not key.is_known
    assert key.complaint == "its authority is none that known_hosts have for this host"


@pytest.mark.parametrize("hosts", ["*.lab", "*,!127.0.0.1"])
def test_an_authority_for_other_hosts_makes_nobody_known(sshd, user, authority, hosts):
    certify(sshd, authority, "-n", "127.0.0.1")
    (user / "known_hosts").write_text(f"@cert-authority {hosts} {public_key(authority)}\n")
    assert not scanned(sshd).is_known


def test_a_certified_key_may_be_another_than_before(sshd, user, authority, tmp_path):
    old = public_key(make_key(tmp_path / "old"))
    certify(sshd, authority, "-n", "127.0.0.1")
    (user / "known_hosts").write_text(f"{sshd.host} {old}\n@cert-authority * {public_key(authority)}\n")
    assert scanned(sshd).is_known
    (user / "known_hosts").write_text(f"{sshd.host} {old}\n")
    with pytest.raises(HostKeyMismatch, match="ssh-keygen -R"):
        scan_host_keys(f"root@127.0.0.1:{sshd.port}")


def test_an_authority_that_was_revoked_makes_nobody_known(sshd, user, authority):
    certify(sshd, authority, "-n", "127.0.0.1")
    line = public_key(authority)
    (user / "known_hosts").write_text(f"@cert-authority * {line}\n@revoked * {line}\n")
    assert not scanned(sshd).is_known


def test_a_host_key_that_was_revoked_is_refused(sshd, user):
    (user / "known_hosts").write_text(f"{sshd.host} {sshd.host_key}\n@revoked * {sshd.host_key}\n")
    with pytest.raises(HostKeyMismatch, match="is revoked in known_hosts"):
        scan_host_keys(f"root@127.0.0.1:{sshd.port}")


def test_a_certificate_that_was_changed_or_is_a_users_does_not_count(authority, tmp_path):
    from paramiko.pkey import PublicBlob

    key = make_key(tmp_path / "key")
    authorities = [public_key(authority)]

    def signed(*options):
        words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "x", "-n", "board", *options, f"{key}.pub"]
        subprocess.run(words, check=True)
        return PublicBlob.from_file(f"{key}-cert.pub")

    assert complaint(signed(), authorities, "board") == "it is one of a user, not of a host"
    good = signed("-h")
    assert complaint(good, authorities, "board") == ""
    for place in range(40, len(good.key_blob), 7):
        changed = bytearray(good.key_blob)
        changed[place] ^= 1
        assert complaint(PublicBlob(good.key_type, bytes(changed)), authorities, "board")
