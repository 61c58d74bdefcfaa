"""A node's cache of model entries, in files that are named by the hash of their content.

Several processes may read and write one folder at once. It can be deleted at any time: the node is
then sent again what it lacks.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Self, final

from flwr.app import Array, Context

from hqde_fl.clients.cache_location import cache_folder
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.held_entries import (
    HASH,
    Manifest,
    array_hash,
    array_header,
    remember_hash,
)

MAX_BYTES = 16 << 30
"""Bytes of the files in a cache, at most, unless another bound is given."""

_TEMPORARY = ".new-"
_ABANDONED_SECONDS = 3600.0  # a temporary file that old belongs to a process that was killed
_MAX_HEADER_BYTES = 4096


@final
@dataclass(frozen=True)
class EntryCache:
    """A folder with the model entries and manifests that a node has stored.

    Parameters
    ----------
    folder : Path
        The folder; it is made when the first entry is stored.
    max_bytes : int, default=MAX_BYTES
        Size of its files, at most. The least recently used ones are removed.
    """

    folder: Path
    max_bytes: int = MAX_BYTES

    @classmethod
    def of(cls, context: Context) -> Self | None:
        """Return the cache that a node's configuration or the environment names; None if none."""
        folder = cache_folder(context.node_config)
        return None if folder is None else cls(folder)

    def array(self, digest: str) -> Array | None:
        """Return the stored array with a hash; None if there is none.

        A file that is damaged is removed.
        """
        content = self._read(digest)
        if content is None:
            return None
        header, data = content
        try:
            dtype, shape, stype = json.loads(header)
            array = Array(str(dtype), tuple(map(int, shape)), str(stype), data)
        except (TypeError, ValueError):  # it is a manifest
            return None
        remember_hash(array, digest)
        return array

    def manifest(self, digest: str) -> Manifest | None:
        """Return the stored manifest with a digest; None if there is none.

        A file that is damaged is removed.
        """
        content = self._read(digest)
        if content is None:
            return None
        try:
            return Manifest.from_json(b"".join(content))
        except ValueError:  # it is an array
            return None

    def store(self, manifest: Manifest, arrays: Mapping[str, Array]) -> bool:
        """Store a manifest and the entries that it holds; return True if all of them are stored.

        Parameters
        ----------
        manifest : Manifest
            The manifest.
        arrays : Mapping[str, Array]
            The model's arrays by name.

        Returns
        -------
        bool
            False if they do not fit, or the files cannot be written; a warning is logged.
        """
        pieces = {
            array_hash(arrays[name]): (array_header(arrays[name]), arrays[name].data)
            for name in manifest.held
        }
        pieces[manifest.digest] = (manifest.to_json(), b"")
        size = sum(len(header) + len(data) for header, data in pieces.values())
        if size > self.max_bytes:
            log(WARNING, "%s: %d bytes exceed the %d allowed", self.folder, size, self.max_bytes)
            return False
        try:
            written = [self._write(digest, *content) for digest, content in pieces.items()]
            if any(written):
                self._remove_oldest(pieces.keys())
        except OSError as error:
            log(WARNING, "entries cannot be kept in %s: %s", self.folder, error)
            return False
        return True

    def _read(self, digest: str) -> tuple[bytes, bytes] | None:
        """Return the first line of a file and the rest, if the content has the hash in its name."""
        if HASH.fullmatch(digest) is None:  # it names a file, and comes from the server
            return None
        path = self.folder / digest
        try:
            with path.open("rb", buffering=0) as file:  # a buffer would copy the data once more
                start = file.read(_MAX_HEADER_BYTES)
                header = start[: start.find(b"\n") + 1]
                file.seek(len(header))
                rest = file.readall()
            hashed = hashlib.sha256(header)
            hashed.update(rest)
            if hashed.hexdigest() == digest:
                os.utime(path)
                return header, rest
            log(WARNING, "removed %s, which is damaged", path)
            path.unlink(missing_ok=True)
        except OSError:
            pass
        return None

    def _write(self, digest: str, header: bytes, data: bytes) -> bool:
        """Write a file unless it is there; return True if it was written."""
        path = self.folder / digest
        with suppress(FileNotFoundError):
            if path.stat().st_size == len(header) + len(data):
                os.utime(path)
                return False
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=self.folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(header)
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return True

    def _remove_oldest(self, kept: Collection[str]) -> None:
        """Remove files until the rest is within the bound, the least recently used ones first."""
        files = []
        for entry in os.scandir(self.folder):
            if entry.is_dir(follow_symlinks=False):  # the clients' states
                continue
            with suppress(FileNotFoundError):  # another process has removed it
                stat = entry.stat(follow_symlinks=False)
                if not entry.name.startswith(_TEMPORARY):
                    files.append((stat.st_mtime_ns, stat.st_size, entry.name))
                elif time.time() - stat.st_mtime > _ABANDONED_SECONDS:
                    os.unlink(entry.path)
        excess = sum(size for _, size, _ in files) - self.max_bytes
        for _, size, name in sorted(files):
            if excess <= 0:
                return
            if name not in kept:
                (self.folder / name).unlink(missing_ok=True)
                excess -= size
