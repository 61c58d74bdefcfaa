"""Shamir's secret sharing of 32-byte secrets, in 16-byte halves over GF(2^128)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

from Crypto.Protocol.SecretSharing import Shamir

from hqde_fl.errors import SecureAggregationError

HALF = 16
SHARE_BYTES = 2 * HALF

MAX_TRIALS = 5_000
"""Sets of shares that are tried before a secret counts as lost."""


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
    """Return a secret of which the image is known, although some of the shares may be wrong.

    Every set of as many shares as the threshold is tried, up to ``MAX_TRIALS``.

    Parameters
    ----------
    shares : Mapping[int, bytes]
        Holder -> its share.
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
        If there are too few shares, or no set of them gives the secret; it names the owner.
    """
    sound = {number: share for number, share in shares.items() if len(share) == SHARE_BYTES}
    if len(sound) < threshold:
        raise SecureAggregationError(
            f"{len(sound)} shares of client {owner}'s secret, needed are {threshold}"
        )
    for trial, numbers in enumerate(combinations(sorted(sound), threshold)):
        if trial == MAX_TRIALS:
            break
        secret = combine({number: sound[number] for number in numbers})
        if image(secret) == expected:
            return secret
    raise SecureAggregationError(f"the shares of client {owner}'s secret are wrong")
