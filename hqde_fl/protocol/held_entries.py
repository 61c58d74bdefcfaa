"""Entries of a model that a node holds already, so that they need not be sent to it again.

A node that stores entries replies with the digest of their manifest: the names of all entries of
the model, and the hashes of those that it stored. The server computes the same manifest from what
it sent, remembers it, and leaves out of the next message those entries that still have the same
bits. The message's config then names the manifest, from which the node fills them in. A node that
lacks one of them says so instead of training. Nodes that never say anything get everything.
"""

from __future__ import annotations

import hashlib
import json
import re
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, final

from flwr.app import Array, ConfigRecord, RecordDict

from hqde_fl.protocol.members import records_of, select_member
from hqde_fl.protocol.omitted_entries import ENTRIES, mask_of, names_in

HELD_ENTRIES, HELD_MASK = "held", "held-mask"
"""Keys of a message's config, below a member's name in an ensemble: the digest of the manifest
whose entries are left out of the message and, if only some of them are, the mask of these among the
entries that the manifest holds. The first is also a key of the reply's record ``ENTRIES``: the
digest of the manifest of the entries that the node stored."""
MISSING = "missing"
"""Key of the reply's record ``ENTRIES``: 1 if the node lacks an entry that was left out."""

HASH = re.compile(r"[0-9a-f]{64}")
"""A SHA-256 in hexadecimal digits."""

_PREFIX_BYTES = 4096
"""Bytes of two arrays that are compared before both are compared as a whole."""


@final
@dataclass(frozen=True)
class Manifest:
    """A set of entries of a model.

    Parameters
    ----------
    names : tuple[str, ...]
        The names of all entries of the model, in its order.
    held : Mapping[str, str]
        Name -> hash of the entries in the set, in the model's order; see ``array_hash``.
    """

    names: tuple[str, ...]
    held: Mapping[str, str]

    @classmethod
    def of(cls, arrays: Mapping[str, Array], chosen: Collection[str]) -> Self:
        """Return the manifest of the chosen ones among all arrays of a model, in its order."""
        held = {name: array_hash(array) for name, array in arrays.items() if name in chosen}
        return cls(tuple(arrays), held)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Return the manifest that ``to_json`` wrote.

        Raises
        ------
        ValueError
            If the text is no manifest.
        """
        table = json.loads(text)
        if not isinstance(table, dict) or table.keys() != {"names", "held"}:
            raise ValueError("not a manifest: it needs names and held")
        names, hashes = table["names"], table["held"]
        if not isinstance(names, list) or not isinstance(hashes, dict):
            raise ValueError("not a manifest: names must be a list, held an object")
        if not all(isinstance(v, str) and HASH.fullmatch(v) for v in hashes.values()):
            raise ValueError("not a manifest: held must have hashes as values")
        if not all(isinstance(name, str) for name in names) or hashes.keys() - set(names):
            raise ValueError("not a manifest: an entry is held that is not in names")
        return cls(tuple(names), {name: hashes[name] for name in names if name in hashes})

    def to_json(self) -> bytes:
        """Return the manifest as JSON, always the same bytes for the same manifest."""
        table = {"held": dict(self.held), "names": list(self.names)}
        return json.dumps(table, sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the manifest's JSON, in hexadecimal digits."""
        return hashlib.sha256(self.to_json()).hexdigest()


def array_header(array: Array) -> bytes:
    """Return the line that precedes an array's data in its hash and in its file."""
    fields = [array.dtype, [int(size) for size in array.shape], array.stype]
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def array_hash(array: Array) -> str:
    """Return the SHA-256 of an array's dtype, shape, serialisation type and data.

    It is remembered for as long as the array lives, and computed again if its fields have changed.
    """
    known = _KNOWN_HASHES.get(id(array))
    if known is not None and known.is_of(array):
        return known.digest
    hashed = hashlib.sha256(array_header(array))
    hashed.update(array.data)
    return remember_hash(array, hashed.hexdigest())


def remember_hash(array: Array, digest: str) -> str:
    """Remember the hash of an array, which the caller has checked, and return the hash."""
    key = id(array)
    reference = weakref.ref(array, lambda _: _KNOWN_HASHES.pop(key, None))
    _KNOWN_HASHES[key] = _KnownHash(reference, _fields(array), digest)
    return digest


@dataclass(frozen=True, eq=False)
class _KnownHash:
    """The hash of an array, and the array's fields when it was computed."""

    array: weakref.ref[Array]
    fields: tuple[Any, ...]
    digest: str

    def is_of(self, array: Array) -> bool:
        """Return True if the array is the same object, with the same fields."""
        *now, data = _fields(array)
        *before, hashed = self.fields
        return self.array() is array and data is hashed and now == before


_KNOWN_HASHES: dict[int, _KnownHash] = {}
"""Id of a living array -> its hash; Flower's arrays are not hashable themselves."""


def _fields(array: Array) -> tuple[Any, ...]:
    return array.dtype, tuple(array.shape), array.stype, array.data


def equal_arrays(one: Array, other: Array) -> bool:
    """Return True if two arrays have the same dtype, shape, serialisation type and data."""
    if one is other:
        return True
    if (one.dtype, one.stype) != (other.dtype, other.stype):
        return False
    a, b = one.data, other.data
    if tuple(one.shape) != tuple(other.shape) or len(a) != len(b):
        return False
    # the data may be views of shared memory, which are slow to compare and fast to copy
    if bytes(a[:_PREFIX_BYTES]) != bytes(b[:_PREFIX_BYTES]):
        return False
    return bytes(a) == bytes(b)


def without_held(
    arrays: Mapping[str, Array], manifest: Manifest
) -> tuple[dict[str, Array], bytes | None]:
    """Return the arrays of a message without those that a node holds, and the mask of these.

    Parameters
    ----------
    arrays : Mapping[str, Array]
        A model's arrays, or some of them beside payloads.
    manifest : Manifest
        The entries that the node holds.

    Returns
    -------
    tuple[dict[str, Array], bytes or None]
        The other arrays; the mask of those left out among the entries that the manifest holds, None
        if they are all of them.
    """
    out = {
        name
        for name, digest in manifest.held.items()
        if name in arrays and array_hash(arrays[name]) == digest
    }
    left = {name: array for name, array in arrays.items() if name not in out}
    return left, None if len(out) == len(manifest.held) else mask_of(out, manifest.held)


def with_held(
    arrays: Mapping[str, Array],
    manifest: Manifest,
    mask: bytes | None,
    stored: Callable[[str], Array | None],
) -> dict[str, Array] | None:
    """Return the arrays of a message with those that ``without_held`` left out, in their order.

    Arrays that the manifest does not name, as payloads, come last. None if an array is not stored.

    Parameters
    ----------
    arrays : Mapping[str, Array]
        The arrays in the message.
    manifest : Manifest
        The entries that the node holds.
    mask : bytes or None
        The mask of those that were left out; None if they are all of them.
    stored : Callable[[str], Array or None]
        Hash -> stored array, or None.

    Raises
    ------
    MalformedError
        If the mask does not fit the manifest.
    """
    held = list(manifest.held)
    out = set(held if mask is None else names_in(mask, held))
    full: dict[str, Array] = {}
    for name in manifest.names:
        array = stored(manifest.held[name]) if name in out else arrays.get(name)
        if array is not None:
            full[name] = array
        elif name in out:
            return None
    return full | {name: array for name, array in arrays.items() if name not in full}


def lacks_entries(content: RecordDict) -> bool:
    """Return True if a reply, which is not trusted, says that its node lacks an entry."""
    record = records_of(content, ConfigRecord).get(ENTRIES, ConfigRecord())
    return record.get(MISSING) == 1


def claimed_digest(content: RecordDict, member: int | None = None) -> str | None:
    """Return the digest of the entries that a reply says its node has stored; never raises.

    Parameters
    ----------
    content : RecordDict
        The reply's content; not trusted.
    member : int, optional
        The member of an ensemble; None where there is one model.

    Returns
    -------
    str or None
        None if the reply says nothing, or no digest.
    """
    record: Mapping[str, object] = records_of(content, ConfigRecord).get(ENTRIES, {})
    if member is not None:
        record = select_member(member, record)
    digest = record.get(HELD_ENTRIES)
    return digest if isinstance(digest, str) and HASH.fullmatch(digest) else None
