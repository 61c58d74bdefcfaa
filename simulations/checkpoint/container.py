"""Write nested values to a safetensors file with a checksum, and read them back.

Any safetensors reader can open the file and read the arrays by name, the model among them. The
metadata hold the format's version, the skeleton of the values, and the SHA-256 of the whole file,
computed with 64 zeros in the place of the checksum. So any changed or missing byte is noticed; but
the checksum is no signature.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hqde_fl.errors import CheckpointError, RunError
from hqde_fl.simulations.checkpoint.value_tree import Stored, ValueTree
from hqde_fl.simulations.recording.atomic_files import replace_file

VERSION = 3
"""Version of the format. It is raised when a class in the files is renamed or its fields change."""

_LENGTH = 8  # bytes before the header, which hold its length
_ZEROS = b"0" * 64
_START = b'{"__metadata__":{"sha256":"'  # the file's bytes before the checksum, without the length
_PLACE = slice(_LENGTH + len(_START), _LENGTH + len(_START) + len(_ZEROS))


def write(path: Path, tree: ValueTree, value: Any) -> str:
    """Write a value to a file, atomically and durably.

    Returns
    -------
    str
        The file's checksum.

    Raises
    ------
    CheckpointError
        If it cannot be written; an existing file of that name is left unchanged.
    """
    text, arrays = tree.dump(value)
    # largest numbers first, so that each array starts at a multiple of its numbers' size
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


def read(path: Path, tree: ValueTree, checksum: str | None = None) -> Any:
    """Read a value from a file that ``write`` has written.

    Parameters
    ----------
    path : Path
        The file.
    tree : ValueTree
        The reader of the value, with the classes that may be in it.
    checksum : str, optional
        The checksum that the file must have; any that fits the file if not given.

    Raises
    ------
    CheckpointError
        If the file is incomplete, was changed, or has another version of the format.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"not readable ({error.strerror})") from None
    head = int.from_bytes(data[:_LENGTH], "little") + _LENGTH
    stated = data[_PLACE]
    if len(data) < head or not data[_LENGTH:head].startswith(_START):
        raise CheckpointError(f"torn, or no checkpoint at all: {len(data)} bytes")
    blank = data[: _PLACE.start] + _ZEROS + data[_PLACE.stop : head]
    body = memoryview(data)[head:]
    if _checksum([blank, body]).encode() != stated:
        raise CheckpointError(f"torn or tampered with: its checksum is wrong ({len(data)} bytes)")
    if checksum not in (None, stated.decode()):
        raise CheckpointError("not the file that belongs to this checkpoint: another checksum")
    return _parse(data[_LENGTH:head], body, tree)


def _header(text: str, arrays: Sequence[tuple[str, Stored]]) -> bytes:
    """Return the file's bytes before the first array, with zeros in place of the checksum."""
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


def _parse(head: bytes, body: memoryview, tree: ValueTree) -> Any:
    try:
        header = json.loads(head)
        metadata = header.pop("__metadata__")
        version = metadata["version"]
        if version == str(VERSION):
            arrays = {name: _stored(entry, body) for name, entry in header.items()}
            return tree.load(metadata["tree"], arrays)
    except CheckpointError:
        raise
    except Exception as error:  # the checksum is right, but this is no checkpoint
        raise CheckpointError(f"malformed header ({type(error).__name__}: {error})") from None
    raise CheckpointError(
        f"of format version {version}, written by another version of hqde-fl: this one reads "
        f"version {VERSION} only"
    )


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
