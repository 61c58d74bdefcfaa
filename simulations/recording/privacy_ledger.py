"""The record of a run's privacy budget on disk, written before anything is released."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

from hqde_fl.errors import CheckpointError, RunError
from hqde_fl.privacy.ledger import Ledger, Release
from hqde_fl.private_files import private
from hqde_fl.simulations.recording.atomic_files import sync
from hqde_fl.simulations.recording.file_names import PRIVACY


@final
class FileLedger(Ledger):
    """Keeps releases in ``privacy.jsonl`` of a run directory, which is never cut.

    A release is on the disk before it can leave the server: whatever ends the process, none is
    forgotten. A line that a kill has torn was of a release that never left.

    Parameters
    ----------
    run : Path
        The run directory.
    """

    durable: ClassVar[bool] = True

    def __init__(self, run: Path) -> None:
        super().__init__()
        self._path = run / PRIVACY

    def read(self) -> Sequence[Release]:
        """Return all releases of the run so far.

        Raises
        ------
        CheckpointError
            If the file is damaged, so that the budget spent is not known.
        """
        if not self._path.exists():
            return ()
        whole, _, _ = self._path.read_bytes().rpartition(b"\n")
        try:
            return [
                Release(int(line["round"]), str(line["digest"]), float(line["multiplier"]))
                for line in map(json.loads, whole.splitlines())
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self._path} is damaged ({type(error).__name__}): what privacy the run has spent "
                "is not known"
            ) from None

    def add(self, release: Release) -> None:
        """Write a release and wait until it is on the disk.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        line = json.dumps(dataclasses.asdict(release), sort_keys=True) + "\n"
        try:
            new = not self._path.exists()
            with open(self._path, "ab", opener=private) as file:
                self._cut_torn_line()
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync(self._path.parent)
        except OSError as error:
            raise RunError(f"{self._path} cannot be written: {error.strerror}") from error

    def _cut_torn_line(self) -> None:
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._path, whole)
