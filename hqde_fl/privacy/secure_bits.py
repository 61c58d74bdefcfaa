"""Random bits that nobody can predict, from a cryptographically secure generator."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Words = Callable[[int], np.ndarray]
"""A source of random bits: n -> (n,) uint64 words, each bit of them independent and fair."""


def secure_words(n: int) -> np.ndarray:
    """Return (n,) uint64 words of AES-256 in counter mode under a key of the operating system.

    Every call draws a new key, which is forgotten after it: who sees the memory of the process
    later learns nothing of the words.
    """
    cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
    return np.frombuffer(cipher.encryptor().update(bytes(8 * n)), dtype=np.uint64)


def uniform(words: Words, n: int) -> np.ndarray:
    """Return (n,) float64 numbers that are uniform on the multiples of 2^-53 in [0, 1)."""
    return (words(n) >> np.uint64(11)) * 2.0**-53
