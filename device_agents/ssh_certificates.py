"""Certificates of host keys (OpenSSH's PROTOCOL.certkeys): what speaks against one."""

from __future__ import annotations

import base64
import time
from collections.abc import Collection

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)
from paramiko.pkey import PublicBlob

from device_agents.ssh_known_hosts import matches


def complaint(shown: PublicBlob, authorities: Collection[str], name: str) -> str:
    """Why a certificate does not vouch for a host; "" if it does.

    Args:
        shown: the certificate, whose key has signed the exchange of keys.
        authorities: keys whose certificates count for this host, each its type and base64.
        name: the host's, without its port.
    """
    try:
        found = load_ssh_public_identity(f"{shown.key_type} {base64.b64encode(shown.key_blob).decode()}".encode())
        if not isinstance(found, SSHCertificate):
            return "it is none"
        found.verify_cert_signature()
        authority = found.signature_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        return f"it cannot be verified ({error or 'its signature is wrong'})"
    if authority not in authorities:
        return "its authority is none that known_hosts have for this host"
    if found.type is not SSHCertificateType.HOST:
        return "it is one of a user, not of a host"
    if not found.valid_after <= time.time() < found.valid_before:
        return "it is not valid now"
    if found.critical_options:
        return "it asks for what is not known here"
    principals = [principal.decode(errors="replace") for principal in found.valid_principals]
    return "" if matches(principals, name) else f"it is for {', '.join(principals) or 'no host by name'}"
