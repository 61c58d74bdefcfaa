"""A tree in one file: a safetensors file that knows its own length and checksum.

Any safetensors reader opens it and finds the arrays, the model among them, by speaking names. Its
metadata hold the format's version, the skeleton of the tree, and the SHA-256 of the whole file, in
which the checksum's own place counts as 64 zeros. Not a byte can be changed or missing unnoticed.
The checksum finds damage; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hqde_fl.errors import CheckpointError, RunError
from hqde_fl.simulations.checkpoint.tree import Stored, Tree
from hqde_fl.simulations.recording.atomic_files import replace_file

VERSION = 1
"""Of the format; a reader reads its own."""

_LENGTH = 8  # bytes before the header, which say how long it is
_ZEROS = b"0" * 64
_START = b'{"__metadata__":{"sha256":"'  # whatever comes before the checksum
_PLACE = slice(_LENGTH + len(_START), _LENGTH + len(_START) + len(_ZEROS))


def write(path: Path, tree: Tree, value: Any) -> str:
    """Write a value to a file: whole, and safe on the disk, or not at all.

    Returns
    -------
    str
        The file's checksum.

    Raises
    ------
    CheckpointError
        If it cannot be written; a file of that name is left as it was.
    """
    text, arrays = tree.dump(value)
    # wide numbers first, so that all of them lie at multiples of their size
    ordered = sorted(arrays.items(), key=lambda item: -_width(item[1]))
    head = _header(text, ordered)
    pieces: list[bytes | memoryview] = [head, *(stored.data for _, stored in ordered)]
    checksum = _checksum(pieces)
    pieces[0] = head[: _PLACE.start] + checksum.encode() + head[_PLACE.stop :]
    try:
        replace_file(path, *pieces)
    except RunError as error:
        raise CheckpointError(str(error)) from error
    return checksum


def read(path: Path, tree: Tree, checksum: str | None = None) -> Any:
    """Read what ``write`` has written.

    Parameters
    ----------
    path : Path
        The file.
    tree : Tree
        Knows the classes in it.
    checksum : str, optional
        What its checksum has to be, where another file says so.

    Raises
    ------
    CheckpointError
        If the file is not complete and exactly as it was written: what is wrong with it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"not readable ({error.strerror})") from None
    head = int.from_bytes(data[:_LENGTH], "little") + _LENGTH
    found = data[_PLACE]
    if len(data) < head or not data[_LENGTH:head].startswith(_START):
        raise CheckpointError(f"torn, or no checkpoint at all: {len(data)} bytes")
    blank = data[: _PLACE.start] + _ZEROS + data[_PLACE.stop : head]
    body = memoryview(data)[head:]
    if _checksum([blank, body]).encode() != found:
        raise CheckpointError(f"torn or tampered with: its checksum is wrong ({len(data)} bytes)")
    if checksum not in (None, found.decode()):
        raise CheckpointError("not the file that belongs to this checkpoint: another checksum")
    return _parse(data[_LENGTH:head], body, tree)


def _header(text: str, arrays: Sequence[tuple[str, Stored]]) -> bytes:
    """The file up to the first array, with zeros in the place of the checksum."""
    header: dict[str, Any] = {
        "__metadata__": {
            "sha256": _ZEROS.decode(),
            "format": "hqde-fl checkpoint",
            "version": str(VERSION),
            "tree": text,
        }
    }
    end = 0
    for name, stored in arrays:
        start, end = end, end + stored.data.nbytes
        header[name] = {
            "dtype": stored.dtype,
            "shape": stored.shape,
            "data_offsets": [start, end],
        }
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % _LENGTH)
    return len(data).to_bytes(_LENGTH, "little") + data


def _parse(head: bytes, body: memoryview, tree: Tree) -> Any:
    try:
        header = json.loads(head)
        metadata = header.pop("__metadata__")
        version = metadata["version"]
        if version == str(VERSION):
            arrays = {name: _stored(entry, body) for name, entry in header.items()}
            return tree.load(metadata["tree"], arrays)
    except CheckpointError:
        raise
    except Exception as error:  # a right checksum over something else
        raise CheckpointError(f"malformed header ({type(error).__name__}: {error})") from None
    raise CheckpointError(f"of format version {version}, this is a reader of version {VERSION}")


def _stored(entry: dict[str, Any], body: memoryview) -> Stored:
    start, end = entry["data_offsets"]
    return Stored(entry["dtype"], tuple(entry["shape"]), body[start:end])


def _width(stored: Stored) -> int:
    return stored.data.nbytes // max(1, math.prod(stored.shape))


def _checksum(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
