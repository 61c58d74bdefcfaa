"""Keys that two clients agree on, what they encrypt with them, and the masks drawn from them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secure_sums.ring import RingVector

KEY_BYTES = 32
"""Length of private and public keys, and of the seed of a mask."""


def new_key() -> bytes:
    """Return a private key of the operating system's random bits, whatever the run's seed."""
    return X25519PrivateKey.generate().private_bytes_raw()


def new_seed() -> bytes:
    """Return the seed of a mask, of the operating system's random bits."""
    return os.urandom(KEY_BYTES)


def public_key(private: bytes) -> bytes:
    """Return the public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed_key(private: bytes, public: bytes, purpose: str) -> bytes:
    """Return the key that the owners of two keys agree on, for one purpose.

    Raises
    ------
    SecureAggregationError
        If the other's public key is no point of the curve, or one of small order.
    """
    try:
        own = X25519PrivateKey.from_private_bytes(private)
        shared = own.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise SecureAggregationError("a public key is none of Curve25519") from error
    derivation = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=purpose.encode())
    return derivation.derive(shared)


def secret_hash(secret: bytes) -> bytes:
    """Return the hash by which a seed or a share is recognised once it is revealed."""
    return hashlib.sha256(b"hqde secure aggregation: secret" + secret).digest()


def encrypt(key: bytes, text: bytes, purpose: str) -> bytes:
    """Return a text encrypted and authenticated; one key may encrypt one text only."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), text, purpose.encode())


def decrypt(key: bytes, encrypted: bytes, purpose: str) -> bytes:
    """Return an encrypted text.

    Raises
    ------
    SecureAggregationError
        If it was not encrypted with this key for this purpose.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), encrypted, purpose.encode())
    except (InvalidTag, ValueError) as error:
        raise SecureAggregationError("an encrypted share has been changed") from error


def mask(seed: bytes, like: RingVector) -> RingVector:
    """Return the mask of a seed: uniform elements of the ring, as many as a vector has.

    They are the key stream of AES-256 in counter mode.
    """
    words, wide = like.words.size, like.wide.size
    cipher = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    stream = cipher.update(bytes(8 * wide + 4 * words))
    return RingVector(
        np.frombuffer(stream, "<u4", words, 8 * wide) & like.modulus_mask,
        np.frombuffer(stream, "<u8", wide),
        like.bits,
    )


def total(vectors: Sequence[RingVector]) -> RingVector:
    """Return the sum of vectors of the same lengths and bits."""
    result = vectors[0]
    for vector in vectors[1:]:
        result = result + vector
    return result
