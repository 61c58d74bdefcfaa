"""The directory of a run's checkpoints: write them, delete old ones, read the newest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from flwr.app import RecordDict

from hqde_fl.errors import CheckpointError
from hqde_fl.privacy.ledger import PrivacyState
from hqde_fl.protocol.held_entries import Manifest
from hqde_fl.selection import ClientHistory
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.client_state_files import Shelf
from hqde_fl.simulations.checkpoint.value_tree import ValueTree
from hqde_fl.simulations.engines.ray.packing import pack, unpack
from hqde_fl.simulations.recording.atomic_files import sync
from hqde_fl.strategies.clients_model import Broadcast
from hqde_fl.strategies.control_variates import ServerControl
from hqde_fl.strategies.holdings import Holdings
from hqde_fl.strategies.state import ModelState, ServerState
from hqde_fl.updates.layout import Entry, Layout

DIRECTORY = "checkpoint"
"""Name of the checkpoint directory in the run directory."""
SUFFIX = ".safetensors"
REFUSED = ".refused"
"""Suffix that is added to the name of a file that cannot be used."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of a run between two rounds, without the states of its clients.

    It holds no random generators: all random numbers derive from the seed, their purpose and the
    round.

    Parameters
    ----------
    experiment : str
        The complete experiment as JSON.
    state : ServerState
        The server's state.
    attack : Mapping[str, Any]
        The memory of colluding attackers.
    history : Mapping[str, int]
        Name of each file with one JSON record a line, such as ``rounds.jsonl`` -> its length in
        bytes.
    shelf : Shelf
        The files that hold the clients' states.
    edges : tuple[Mapping[str, Any], ...]
        The state of each edge, where there are edges.
    """

    experiment: str
    state: ServerState
    attack: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, int] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)
    edges: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class UsableCheckpoint:
    """The newest usable checkpoint.

    Parameters
    ----------
    snapshot : Snapshot
        The state of the run.
    contexts : Mapping[int, RecordDict]
        Partition id -> state of its client.
    """

    snapshot: Snapshot
    contexts: Mapping[int, RecordDict]


TREE = ValueTree(
    Snapshot,
    ServerState,
    ModelState,
    ServerControl,
    Broadcast,
    Layout,
    Entry,
    Holdings,
    Manifest,
    Shelf,
    ClientHistory,
    PrivacyState,
)
"""The reader and writer of checkpoint files, with the classes that they may hold."""

Fetch = Callable[[Collection[int]], Mapping[int, RecordDict]]


@final
class Store:
    """The checkpoints of one run, which are written by a thread.

    A snapshot is never changed in place, so the next round can run while it is being written. At
    most one checkpoint is being written at a time.

    Parameters
    ----------
    run : Path
        The run directory.
    keep : int
        Number of checkpoints to keep; 0: all.
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
        """Start to write a checkpoint, after waiting until the one before it has been written.

        Parameters
        ----------
        snapshot : Snapshot
            The state of the run; its shelf is replaced by the store's.
        changed : Collection[int]
            Ids of partitions whose clients' states may have changed since the last call.
        fetch : Callable
            Returns the states of clients for their partition ids, for those that have one.

        Raises
        ------
        CheckpointError
            If the checkpoint before this one could not be written; the message names the file.
        """
        self.wait()
        due = self._shelf.due(changed)
        contexts = {client: pack(state) for client, state in fetch(due).items()} if due else {}
        self._pending = self._writer.submit(self._write, snapshot, due, contexts)

    def wait(self) -> None:
        """Wait until the checkpoint that ``save`` began last has been written, if there is one.

        Raises
        ------
        CheckpointError
            If it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._shelf = pending.result()

    def close(self) -> None:
        """Wait until the last checkpoint has been written, and end the thread that writes.

        ``CheckpointError`` is raised if it could not be written.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _write(
        self, snapshot: Snapshot, due: Collection[int], contexts: Mapping[int, Any]
    ) -> Shelf:
        number = snapshot.state.round
        name, clients = file_of("round", number), file_of("clients", number)
        shelf = self._shelf.with_file(due, contexts, clients)
        try:
            self.path.mkdir(exist_ok=True)
            if contexts:
                shelf = shelf.with_checksum(clients, self._put(clients, contexts))
            for file in snapshot.history:
                sync(self.run / file)
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
        """Delete all but the newest ``keep`` checkpoints, and files to which none of them refers.

        Drafts that a killed process has left are deleted too.
        """
        kept = sorted(self._needs, key=_age)[-self.keep :]  # all with 0
        self._needs = {name: self._needs[name] for name in kept}
        needed = {*kept}.union(*self._needs.values())
        for path in (*self.path.glob(f"*{SUFFIX}"), *self.path.glob(".*.new")):  # torn by a kill
            if path.name not in needed:
                path.unlink(missing_ok=True)

    def forget_clients(self) -> None:
        """Drop the clients' states from further checkpoints, as real nodes keep them themselves."""
        self._shelf = Shelf()

    # --- reading ----------------------------------------------------------------------------------

    def latest(
        self, accept: Callable[[Snapshot], None]
    ) -> tuple[UsableCheckpoint | None, dict[str, str]]:
        """Return the newest usable checkpoint, and the unusable files' names with the reasons.

        The checkpoint is None if there are no files. If one is usable, the unusable files get
        another name, which ends in ``.refused``.

        Parameters
        ----------
        accept : Callable
            Raises ``CheckpointError`` for a snapshot that does not fit the run's other files.

        Raises
        ------
        CheckpointError
            If there are checkpoints, but all of them are refused.
        """
        refused: dict[str, str] = {}
        usable = None
        for path in self._newest_first():
            try:
                snapshot = _snapshot(path)
                if usable is None:
                    accept(snapshot)
                    usable = UsableCheckpoint(snapshot, self._contexts(snapshot.shelf))
                    self._shelf = snapshot.shelf
                self._needs[path.name] = frozenset(snapshot.shelf.checksums)
            except CheckpointError as error:
                refused[path.name] = str(error)
        if refused and usable is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            raise CheckpointError(f"no usable checkpoint in {self.path}: {reasons}")
        for name in refused:
            with suppress(OSError):
                (self.path / name).replace(self.path / f"{name}{REFUSED}")
        return usable, refused

    def newest(self) -> Snapshot | None:
        """Return the newest readable snapshot, even if it does not fit the run's other files.

        The result is None if there is none.
        """
        for path in self._newest_first():
            with suppress(CheckpointError):
                return _snapshot(path)
        return None

    def numbers(self) -> list[int]:
        """Return the rounds after which there are checkpoints, readable or not, in order."""
        names = (path.name.removesuffix(SUFFIX) for path in reversed(self._newest_first()))
        return [int(name.removeprefix("round-")) for name in names]

    def snapshot(self, number: int) -> Snapshot:
        """Return the snapshot after a round.

        Raises
        ------
        CheckpointError
            If its file is missing, or not usable.
        """
        return _snapshot(self.path / file_of("round", number))

    def contexts(self, snapshot: Snapshot) -> dict[int, RecordDict]:
        """Return partition id -> state of its client, of a snapshot in this store.

        Raises
        ------
        CheckpointError
            If one of their files is missing, or not usable.
        """
        return self._contexts(snapshot.shelf)

    def _newest_first(self) -> list[Path]:
        files = self.path.glob(f"round-*{SUFFIX}")
        return sorted(files, key=lambda path: _age(path.name), reverse=True)

    def _contexts(self, shelf: Shelf) -> dict[int, RecordDict]:
        contexts: dict[int, RecordDict] = {}
        for name, checksum in shelf.checksums.items():
            try:
                packed = container.read(self.path / name, TREE, checksum)
                clients = (client for client, file in shelf.places.items() if file == name)
                contexts |= {client: unpack(packed[client]) for client in clients}
            except CheckpointError as error:
                raise CheckpointError(f"{name}: {error}") from None
            except Exception as error:
                raise CheckpointError(f"{name}: malformed states ({error!r})") from None
        return contexts


def file_of(kind: str, number: int) -> str:
    """Return the name of a file from its kind and the number of its round.

    For instance, it is ``round-000012.safetensors`` for ``"round"`` and 12.
    """
    return f"{kind}-{number:06d}{SUFFIX}"


def _snapshot(path: Path) -> Snapshot:
    snapshot = container.read(path, TREE)
    if not isinstance(snapshot, Snapshot) or not isinstance(snapshot.state, ServerState):
        raise CheckpointError("holds something else than a run between two rounds")
    if path.name != file_of("round", snapshot.state.round):
        raise CheckpointError(f"is of round {snapshot.state.round}, not what its name says")
    return snapshot


def _age(name: str) -> tuple[int, str]:
    return len(name), name  # longer names are newer: they start at round 1,000,000
