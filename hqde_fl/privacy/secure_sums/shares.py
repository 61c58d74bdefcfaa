"""Shamir's secret sharing of 32-byte secrets, in 16-byte halves over GF(2^128)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from Crypto.Protocol.SecretSharing import Shamir

from hqde_fl.errors import SecureAggregationError

HALF = 16
SHARE_BYTES = 2 * HALF


def split(secret: bytes, threshold: int, count: int) -> dict[int, bytes]:
    """Return ``count`` shares by number, from 1; any ``threshold`` of them give the secret."""
    first = Shamir.split(threshold, count, secret[:HALF], ssss=False)
    second = dict(Shamir.split(threshold, count, secret[HALF:], ssss=False))
    return {number: share + second[number] for number, share in first}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of exactly as many shares as its threshold."""
    halves = [
        Shamir.combine([(number, s[part]) for number, s in shares.items()], ssss=False)
        for part in (slice(HALF), slice(HALF, None))
    ]
    return b"".join(halves)


def recover(
    shares: Mapping[int, bytes],
    threshold: int,
    image: Callable[[bytes], bytes],
    expected: bytes,
    owner: int,
) -> bytes:
    """Return a secret of which the image is known.

    Parameters
    ----------
    shares : Mapping[int, bytes]
        Holder -> its share, of those that have the hash which the owner has told.
    threshold : int
        Shares that are needed.
    image : Callable[[bytes], bytes]
        A one-way function of the secret.
    expected : bytes
        Its value.
    owner : int
        The client whose secret it is, for the error.

    Raises
    ------
    SecureAggregationError
        If there are too few shares, or they give another secret: its owner has lied.
    """
    if len(shares) < threshold:
        raise SecureAggregationError(
            f"{len(shares)} shares of client {owner}'s secret, needed are {threshold}"
        )
    chosen = sorted(shares)[:threshold]
    secret = combine({number: shares[number] for number in chosen})
    if image(secret) != expected:
        raise SecureAggregationError(f"client {owner} has shared another secret than its own")
    return secret
