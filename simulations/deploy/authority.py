"""Create a certificate authority, the SuperLink's certificate and the nodes' keys."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hqde_fl.errors import ConfigError, RunError

MAX_DAYS = 3650
"""Validity of the authority's certificate, and maximum validity of one that it signs."""
SERVER_DAYS = 397
"""Validity of a server's certificate: the maximum that common verifiers accept."""
_LEEWAY = timedelta(days=1)  # for hosts whose clock is behind
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)


def check_host(host: str) -> None:
    """Raise ``ConfigError`` if a host is neither a host name nor an IP address."""
    labels = host.split(".")
    named = len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()
    if not (named or address_of(host)):
        raise ConfigError(
            "host must be a name (xn--... if it is not ASCII) or an IP address, "
            f"without scheme and port, found {host!r}"
        )


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host as an IP address; None for a name, or for an address with a zone (``%``)."""
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def make_authority(certificate: Path, key: Path) -> None:
    """Create a certificate authority.

    Parameters
    ----------
    certificate, key : Path
        Files for its certificate and its private key; the key's must not exist.
    """
    private = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hqde-fl federation")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
    signed = (
        _builder(name, private.public_key(), MAX_DAYS)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(private, hashes.SHA384())
    )
    write_private(key, _pem(private))
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))


def issue_server(
    authority: tuple[Path, Path],
    certificate: Path,
    key: Path,
    hosts: Sequence[str],
    days: int = SERVER_DAYS,
) -> None:
    """Create a server's private key and its certificate, signed by the authority.

    Parameters
    ----------
    authority : tuple of Path
        Files with the authority's certificate and private key.
    certificate, key : Path
        Files for the server's certificate and private key; existing ones are replaced.
    hosts : Sequence of str
        Names and IP addresses by which clients reach the server.
    days : int, optional
        Validity of the certificate in days, in [1, ``MAX_DAYS``].

    Raises
    ------
    ConfigError
        If the authority's key is missing or damaged, or ``days`` is out of range.
    RunError
        If the files cannot be written.
    """
    if not 1 <= days <= MAX_DAYS:
        raise ConfigError(f"days must be in [1, {MAX_DAYS}], found {days}")
    try:
        issuer = x509.load_pem_x509_certificate(authority[0].read_bytes())
        signer = load_pem_private_key(authority[1].read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"the authority's certificate and key are needed: {error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{authority[0]} or {authority[1]} is damaged: {error}") from error
    if signer.public_key() != issuer.public_key():
        raise ConfigError(f"{authority[1]} is not the key of {authority[0]}")
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    private = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hqde-fl SuperLink")])
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    identifier = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
    signed = (
        _builder(name, private.public_key(), days)
        .issuer_name(issuer.subject)
        .add_extension(x509.SubjectAlternativeName([_alternative(h) for h in hosts]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(above, critical=False)
        .add_extension(identifier, critical=False)
        .sign(signer, hashes.SHA384())
    )
    new = [path.with_name(f".{path.name}.new") for path in (key, certificate)]
    try:
        new[0].unlink(missing_ok=True)
        write_private(new[0], _pem(private))
        new[1].write_bytes(signed.public_bytes(Encoding.PEM))
        for draft, path in zip(new, (key, certificate), strict=True):
            draft.replace(path)
    except OSError as error:
        for draft in new:
            with suppress(OSError):
                draft.unlink()
        raise RunError(f"{key} or {certificate} cannot be written: {error.strerror}") from error


def make_node_key(private: Path, public: Path) -> None:
    """Create a node's key pair, as ``ssh-keygen -t ecdsa -b 384`` does.

    Parameters
    ----------
    private, public : Path
        Files for the private and the public key; the private key's must not exist.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    content = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_private(private, content)
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that no other user can read, not even while it is being written.

    ``FileExistsError`` is raised if it exists already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def valid_until(certificate: Path) -> datetime:
    """Return the time until which a certificate is valid."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def days_left(certificate: Path) -> int:
    """Return the number of whole days for which a certificate is still valid; negative if none."""
    return (valid_until(certificate) - datetime.now(UTC)).days


def _builder(
    name: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LEEWAY)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    address = address_of(host)
    return x509.DNSName(host) if address is None else x509.IPAddress(address)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
