"""Signatures of the keys that clients advertise, by which a site knows the others by itself.

A site that has a list of the others' public keys takes part in no bucket with a key that none of
them has signed for this sum. Whoever forwards the keys cannot put its own in their place then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secure_sums.client import PublicKeys

_ALGORITHM = ec.ECDSA(hashes.SHA384())


@final
@dataclass(frozen=True)
class SiteIdentity:
    """A site's own key, and the keys of the sites that it trusts.

    Parameters
    ----------
    private : EllipticCurvePrivateKey or None
        The key with which the site signs; None if it signs nothing.
    trusted : frozenset[bytes] or None
        The public keys of all sites, as compressed points; None if it has no list.
    """

    private: ec.EllipticCurvePrivateKey | None = None
    trusted: frozenset[bytes] | None = None

    @classmethod
    def of_files(cls, key: Path, peers: Path) -> SiteIdentity:
        """Return the identity that a site's files give; what is missing is None.

        Parameters
        ----------
        key : Path
            The site's private key, in PEM.
        peers : Path
            The public keys of all sites, a line in OpenSSH's format for each.

        Raises
        ------
        SecureAggregationError
            If a file cannot be read.
        """
        times = tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in (key, peers))
        return _identity(key, peers, times)

    def signed(self, keys: PublicKeys, session: str, number: int) -> PublicKeys:
        """Return public keys with the site's signature for one sum; unchanged without a key."""
        if self.private is None:
            return keys
        signature = self.private.sign(_text(keys, session, number), _ALGORITHM)
        return replace(keys, signer=_point(self.private.public_key()), signature=signature)

    def check(self, peers: Mapping[int, PublicKeys], session: str) -> None:
        """Raise unless all keys of a bucket are signed by different trusted sites.

        Without a list of trusted sites nothing is checked.
        """
        if self.trusted is None:
            return
        for number, keys in peers.items():
            if keys.signer not in self.trusted:
                raise SecureAggregationError(
                    f"the keys of client {number} are signed by none of the trusted sites"
                )
            try:
                signer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), keys.signer)
                signer.verify(keys.signature, _text(keys, session, number), _ALGORITHM)
            except (InvalidSignature, ValueError) as error:
                raise SecureAggregationError(
                    f"the signature of client {number}'s keys is not one for this sum"
                ) from error
        if len({keys.signer for keys in peers.values()}) < len(peers):
            raise SecureAggregationError("one site takes part in a bucket twice")


@lru_cache(maxsize=8)
def _identity(key: Path, peers: Path, times: tuple[int, ...]) -> SiteIdentity:
    """Return the identity of two files that were changed at these times, 0 if they are missing."""
    try:
        private = None
        if times[0]:
            text = key.read_bytes()
            read = load_ssh_private_key if b"OPENSSH" in text else load_pem_private_key
            loaded = read(text, None)
            if isinstance(loaded, ec.EllipticCurvePrivateKey):
                private = loaded
        trusted = None
        if times[1]:
            lines = peers.read_bytes().splitlines()
            trusted = frozenset(_points(line for line in lines if line.strip()))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SecureAggregationError(f"{key} or {peers} cannot be read: {error}") from error
    return SiteIdentity(private, trusted)


def _points(lines: Iterable[bytes]) -> Iterable[bytes]:
    for line in lines:
        key = load_ssh_public_key(line)
        if isinstance(key, ec.EllipticCurvePublicKey):
            yield _point(key)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _text(keys: PublicKeys, session: str, number: int) -> bytes:
    head = f"hqde secure aggregation: keys\n{session}\n{number}\n".encode()
    return head + keys.cipher + keys.masking
