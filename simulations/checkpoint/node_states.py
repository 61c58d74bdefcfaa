"""The states that a node keeps of its clients on its own disk, for runs that are resumed.

Engines ``inline`` and ``ray`` have the clients' states in the checkpoints. Under Flower's own
engine and on real nodes they belong to the nodes, which lose them with the run or the process.
There the server says with every training where it stands in the run (``RunPlace``), and a node
that has a folder writes the client's state after it: ``FOLDER/RUN/PARTITION/ATTEMPT-ROUND``. It
reads the newest one that belongs to the run's past when the client has none of this run.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Self, final

from flwr.app import ConfigRecord, Context, Message

from hqde_fl.clients.cache_location import state_folder
from hqde_fl.clients.message_fields import is_training
from hqde_fl.errors import CheckpointError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.run_place import RunPlace
from hqde_fl.protocol.secure_state import KEPT
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.store import SUFFIX, TREE
from hqde_fl.simulations.engines.ray.packing import pack, unpack

OF_RUN = "hqde.state-of-run"
"""Name in a client's state of the run to which it belongs; it is not written."""
UNWRITTEN = (OF_RUN, KEPT)
"""Names of what is not written: also the keys of secure aggregation, which no disk should have."""
RUNS_KEPT = 4
"""Number of runs whose states a node keeps, the newest ones."""

_NAME = re.compile(r"(\d+)-(\d+)" + re.escape(SUFFIX))


@final
@dataclass(frozen=True)
class NodeStates:
    """The files with the states of one client in one run.

    Parameters
    ----------
    folder : Path
        The folder of all runs of the node.
    place : RunPlace
        The training that is to come.
    partition : int
        The client's partition.
    """

    folder: Path
    place: RunPlace
    partition: int

    @classmethod
    def of(cls, context: Context, place: RunPlace) -> Self | None:
        """Return the files of a node's client; None if the node has no folder for them."""
        partition = context.node_config.get("partition-id")
        folder = state_folder(context.node_config)
        if folder is None or type(partition) is not int:
            return None
        return cls(folder, place, partition)

    @property
    def path(self) -> Path:
        """The folder of the client's states in the run."""
        return self.folder / self.place.run / str(self.partition)

    def restore(self, context: Context) -> None:
        """Give the client the newest state that belongs to the run's past, unless it has its own.

        A file that cannot be read is passed over with a warning.
        """
        own = context.state.config_records.get(OF_RUN, ConfigRecord())
        if own.get("run") == self.place.run and own.get("attempt") == self.place.attempt:
            return
        keys = context.state.get(KEPT)  # of the round that goes on
        context.state.clear()
        if keys is not None:
            context.state[KEPT] = keys
        context.state[OF_RUN] = ConfigRecord({"run": self.place.run, "attempt": self.place.attempt})
        for attempt, number in sorted(self._written(), reverse=True):
            if not self.place.belongs(attempt, number):
                continue
            path = self._file(attempt, number)
            try:
                state = unpack(container.read(path, TREE))
            except CheckpointError as error:
                log(WARNING, "%s is passed over: %s", path, error)
                continue
            for name, record in state.items():
                context.state[name] = record
            return

    def write(self, context: Context) -> None:
        """Write the client's state after the training, if it keeps anything.

        Files that no resumed run will need are deleted. If that or the writing fails, a warning is
        logged: the training counts nevertheless.
        """
        kept = [(name, one) for name, one in context.state.items() if name not in UNWRITTEN]
        if not kept:
            return
        try:
            if not self.path.is_dir():
                self.path.mkdir(parents=True, mode=0o700)
                self._forget_old_runs()
            state = type(context.state)(dict(kept))
            container.write(self._file(self.place.attempt, self.place.round), TREE, pack(state))
            self._tidy()
        except (OSError, CheckpointError) as error:
            log(WARNING, "the client's state cannot be kept for a resumed run: %s", error)

    def _file(self, attempt: int, number: int) -> Path:
        return self.path / f"{attempt}-{number}{SUFFIX}"

    def _written(self) -> list[tuple[int, int]]:
        """Return attempt and round of each file."""
        with suppress(OSError):
            matches = (_NAME.fullmatch(name) for name in os.listdir(self.path))
            return [(int(match[1]), int(match[2])) for match in matches if match]
        return []

    def _tidy(self) -> None:
        """Delete all files but those after the oldest round, and the newest before it."""
        of_run = [one for one in self._written() if self.place.belongs(*one)]
        before = sorted(one for one in of_run if one[1] <= self.place.oldest)
        for one in {*before[:-1]} | {*self._written()} - {*of_run} - {self._now}:
            self._file(*one).unlink(missing_ok=True)

    @property
    def _now(self) -> tuple[int, int]:
        return self.place.attempt, self.place.round

    def _forget_old_runs(self) -> None:
        """Delete the states of all but the newest runs."""
        runs = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in runs[:-RUNS_KEPT]:
            if path.name != self.place.run:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def kept_on_disk(message: Message, context: Context) -> Iterator[None]:
    """Restore the client's state before a training, and write it after the block has succeeded.

    Nothing is done unless the message says where it stands in the run and the node has a folder.
    """
    place = RunPlace.taken_from(message)
    states = NodeStates.of(context, place) if place and is_training(message) else None
    if states is None:
        yield
        return
    states.restore(context)
    yield
    states.write(context)
