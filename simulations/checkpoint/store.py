"""The directory of a run's checkpoints: what is written to it, kept, and found in it again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from flwr.app import RecordDict

from hqde_fl.errors import CheckpointError
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.shelf import Shelf
from hqde_fl.simulations.checkpoint.tree import Tree
from hqde_fl.simulations.engines.ray.packing import pack, unpack
from hqde_fl.simulations.recording.atomic_files import sync
from hqde_fl.strategies.broadcast import Broadcast
from hqde_fl.strategies.state import ModelState, ServerState
from hqde_fl.updates.layout import Entry, Layout

DIRECTORY = "checkpoint"
"""Its name in the run directory."""
SUFFIX = ".safetensors"
REFUSED = ".refused"
"""Suffix that a file gets which is not as it was written."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run between two rounds, without what its clients remember.

    Generators are not part of it: all random numbers are named by what they are for and by the
    round, so that there is nothing to remember of them.

    Parameters
    ----------
    experiment : str
        The complete experiment as JSON.
    state : ServerState
        What the server carries into the next round.
    attack : Mapping[str, Any]
        What colluding attackers remember.
    history : Mapping[str, int]
        How long each of the run's line by line files was.
    shelf : Shelf
        Where the clients' states are.
    """

    experiment: str
    state: ServerState
    attack: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, int] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)


@dataclass(frozen=True, eq=False)
class Found:
    """The newest usable checkpoint.

    Parameters
    ----------
    snapshot : Snapshot
        The run as it was.
    contexts : Mapping[int, RecordDict]
        Partition -> what its client remembers.
    """

    snapshot: Snapshot
    contexts: Mapping[int, RecordDict]


TREE = Tree(Snapshot, ServerState, ModelState, Broadcast, Layout, Entry, Shelf)
"""What the files may hold."""

Fetch = Callable[[Collection[int]], Mapping[int, RecordDict]]


@final
class Store:
    """The checkpoints of one run. What is saved is written behind the run's back.

    Nothing that a snapshot holds is ever changed in place, so a round can go on while the state
    before it is being written: at most one checkpoint is under way.

    Parameters
    ----------
    run : Path
        The run directory.
    keep : int
        How many checkpoints are kept, >= 1.
    """

    def __init__(self, run: Path, keep: int = 3) -> None:
        self.run, self.path, self.keep = run, run / DIRECTORY, keep
        self.bytes = self.saved = 0
        self._shelf = Shelf()
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Shelf] | None = None
        self._needs: dict[str, frozenset[str]] = {}

    # --- writing ----------------------------------------------------------------------------------

    def save(self, snapshot: Snapshot, changed: Collection[int], fetch: Fetch) -> None:
        """Write a checkpoint; the one before it is complete when this returns.

        Parameters
        ----------
        snapshot : Snapshot
            The run; the shelf in it is the store's own business.
        changed : Collection[int]
            Partitions whose clients' states may have changed since the last call.
        fetch : Callable
            Partitions -> what their clients remember, for those who remember anything.

        Raises
        ------
        CheckpointError
            If the one before this could not be written; it names the file.
        """
        self.wait()
        due = self._shelf.due(changed)
        contexts = {client: pack(state) for client, state in fetch(due).items()} if due else {}
        self._pending = self._writer.submit(self._write, snapshot, due, contexts)

    def wait(self) -> None:
        """Return when the last checkpoint is complete.

        Raises
        ------
        CheckpointError
            If it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._shelf = pending.result()

    def close(self) -> None:
        """``wait``, and end the writer."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _write(
        self, snapshot: Snapshot, due: Collection[int], contexts: Mapping[int, Any]
    ) -> Shelf:
        number = snapshot.state.round
        name, clients = file_of("round", number), file_of("clients", number)
        shelf = self._shelf.holding(due, contexts, clients)
        try:
            self.path.mkdir(exist_ok=True)
            if contexts:
                shelf = shelf.signed(clients, self._put(clients, contexts))
            for each in snapshot.history:
                sync(self.run / each)
            self._put(name, replace(snapshot, shelf=shelf))
        except OSError as error:
            raise CheckpointError(f"{self.path / name} cannot be written: {error}") from error
        self.saved += 1
        self._needs[name] = frozenset(shelf.checksums)
        self._tidy()
        return shelf

    def _put(self, name: str, value: Any) -> str:
        checksum = container.write(self.path / name, TREE, value)
        self.bytes += (self.path / name).stat().st_size
        return checksum

    def _tidy(self) -> None:
        """Remove what no checkpoint that is kept needs."""
        kept = sorted(self._needs, key=_age)[-self.keep :]
        self._needs = {name: self._needs[name] for name in kept}
        needed = {*kept}.union(*self._needs.values())
        for path in (*self.path.glob(f"*{SUFFIX}"), *self.path.glob(".*.new")):  # torn by a kill
            if path.name not in needed:
                path.unlink(missing_ok=True)

    def forget_clients(self) -> None:
        """Keep the clients' states no longer: they live where they cannot be fetched."""
        self._shelf = Shelf()

    # --- reading ----------------------------------------------------------------------------------

    def latest(self, accept: Callable[[Snapshot], None]) -> tuple[Found | None, dict[str, str]]:
        """The newest checkpoint that is as it was written, and why others were refused.

        Refused files are set aside under another name, if there is one to go on from.

        Parameters
        ----------
        accept : Callable
            Raises ``CheckpointError`` for a snapshot that does not fit the rest of the run.

        Raises
        ------
        CheckpointError
            If there are checkpoints, but all of them are refused.
        """
        refused: dict[str, str] = {}
        found = None
        for path in self._newest_first():
            try:
                snapshot = _snapshot(path)
                if found is None:
                    accept(snapshot)
                    found = Found(snapshot, self._contexts(snapshot.shelf))
                    self._shelf = snapshot.shelf
                self._needs[path.name] = frozenset(snapshot.shelf.checksums)
            except CheckpointError as error:
                refused[path.name] = str(error)
        if refused and found is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            raise CheckpointError(f"no usable checkpoint in {self.path}: {reasons}")
        for name in refused:
            with suppress(OSError):
                (self.path / name).replace(self.path / f"{name}{REFUSED}")
        return found, refused

    def newest(self) -> Snapshot | None:
        """The newest snapshot that is as it was written, whether or not the rest fits it."""
        for path in self._newest_first():
            with suppress(CheckpointError):
                return _snapshot(path)
        return None

    def _newest_first(self) -> list[Path]:
        files = self.path.glob(f"round-*{SUFFIX}")
        return sorted(files, key=lambda path: _age(path.name), reverse=True)

    def _contexts(self, shelf: Shelf) -> dict[int, RecordDict]:
        contexts: dict[int, RecordDict] = {}
        for name, checksum in shelf.checksums.items():
            try:
                packed = container.read(self.path / name, TREE, checksum)
                mine = (client for client, at in shelf.places.items() if at == name)
                contexts |= {client: unpack(packed[client]) for client in mine}
            except CheckpointError as error:
                raise CheckpointError(f"{name}: {error}") from None
            except Exception as error:
                raise CheckpointError(f"{name}: malformed states ({error!r})") from None
        return contexts


def file_of(kind: str, number: int) -> str:
    """The name of a file of a round."""
    return f"{kind}-{number:06d}{SUFFIX}"


def _snapshot(path: Path) -> Snapshot:
    snapshot = container.read(path, TREE)
    if not isinstance(snapshot, Snapshot) or not isinstance(snapshot.state, ServerState):
        raise CheckpointError("holds something else than a run between two rounds")
    if path.name != file_of("round", snapshot.state.round):
        raise CheckpointError(f"is of round {snapshot.state.round}, not what its name says")
    return snapshot


def _age(name: str) -> tuple[int, str]:
    return len(name), name  # after round 999999 they get longer
