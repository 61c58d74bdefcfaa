"""Checkpoints of a weight store: one file of weights for each version, and an index.

Every file is written whole, then renamed, then the index: a crash leaves the last checkpoint.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from hqde_fl.distributed.weight_versions import Version
from hqde_fl.errors import CheckpointError

_INDEX = "index.json"


def write_checkpoint(
    folder: Path, versions: Iterable[Version], content: Callable[[Version], bytes]
) -> None:
    """Make a folder hold exactly these versions; those that it holds already are not written again.

    Parameters
    ----------
    folder : Path
        The folder; it is made if it is missing.
    versions : Iterable[Version]
        The versions.
    content : Callable[[Version], bytes]
        Returns the bytes of a version.

    Raises
    ------
    CheckpointError
        If it cannot be written.
    """
    versions = list(versions)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for version in versions:
            path = folder / file_name(version)
            if not path.exists():
                _write(path, content(version))
        index = json.dumps([asdict(version) for version in versions])
        _write(folder / _INDEX, index.encode())
        kept = {_INDEX, *map(file_name, versions)}
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink()
    except OSError as error:
        raise CheckpointError(f"weight store: {error}") from error


def read_checkpoint(folder: Path) -> list[tuple[Version, bytes]]:
    """Return the versions in a folder with their bytes; none if there is no checkpoint.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged.
    """
    path = folder / _INDEX
    if not path.exists():
        return []
    restored = []
    try:
        for entry in json.loads(path.read_bytes()):
            version = Version(**entry)
            path = folder / file_name(version)
            content = path.read_bytes()
            if zlib.crc32(content) != version.checksum:
                raise CheckpointError(f"weight store: {path} is damaged")
            restored.append((version, content))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"weight store: {path} cannot be read: {error}") from error
    return restored


def file_name(version: Version) -> str:
    """Return the name of the file of a version: tokens are unique, keys may be any text."""
    return f"{version.version:08d}-{version.token}.safetensors"


def _write(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
