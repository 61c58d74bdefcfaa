"""The callback that writes a run's checkpoints."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid

from hqde_fl.errors import CheckpointError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.grid_protocols import KeepsContexts
from hqde_fl.simulations.attacks.attack_grid import AttackGrid
from hqde_fl.simulations.checkpoint.resume import ResumePoint
from hqde_fl.simulations.checkpoint.store import Snapshot, Store
from hqde_fl.simulations.edges.edge_states import edge_states, restore_edges
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.file_names import CLIENTS, FURTHER_LINES, ROUNDS
from hqde_fl.simulations.recording.manifest import add_to_manifest
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.edges.edge_grid import EdgeGrid
from hqde_fl.strategies.state import ServerState


class Checkpoints(Callback):
    """Writes a checkpoint after every n-th round and after the last one.

    It has to come after the callback that writes ``rounds.jsonl`` and ``clients.jsonl``, because it
    records their lengths.

    Parameters
    ----------
    run : Path
        The run directory.
    experiment : Experiment
        The experiment; its ``[checkpoint]`` table has n.
    grid : Grid
        The Grid of the run. If it is a ``KeepsContexts``, the clients' states are written too.
    point : ResumePoint, optional
        The state from which the run resumes; the clients' states in it are given to the grid.
    edges : EdgeGrid, optional
        The edges, if there are any; their states are written and resumed, too.
    """

    phase = "checkpoint"

    def __init__(
        self,
        run: Path,
        experiment: Experiment,
        grid: Grid,
        point: ResumePoint | None = None,
        edges: EdgeGrid | None = None,
    ) -> None:
        self._run, self._experiment, self._grid = run, experiment, grid
        self._every = experiment.checkpoint.every
        self._store = Store(run, experiment.checkpoint.keep) if point is None else point.store
        self._keeper = grid if isinstance(grid, KeepsContexts) else None
        self._rounds, self._seconds = 0, 0.0
        self._edges = edges
        if self._keeper is None:
            self._store.forget_clients()
        elif point is not None:
            self._keeper.set_contexts(point.contexts)
        if point is not None and isinstance(grid, AttackGrid):
            grid.memory = point.attack
        if point is not None and point.edges and edges is not None:
            restore_edges(edges, point.edges)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the context of a run; at its end, wait until the last checkpoint has been written.

        ``CheckpointError`` is raised if that failed, but only logged if the run itself has failed.
        """
        try:
            yield
        except BaseException:
            try:
                self._end()
            except CheckpointError as error:  # the first error matters more
                log(WARNING, "%s", error)
            raise
        self._end()

    def on_start(self, arrays: ArrayRecord, rounds: int) -> None:
        """Remember ``rounds`` as the number of the last round."""
        self._rounds = rounds

    def on_state(self, state: ServerState, record: RoundRecord) -> None:
        """Start to write a checkpoint if this round is the last one or a multiple of n.

        Nothing is done if n is 0.
        """
        if not self._every or (state.round % self._every and state.round != self._rounds):
            return
        started = time.monotonic()
        memory: Mapping[str, Any] = {}
        if isinstance(self._grid, AttackGrid):
            memory = self._grid.memory
        files = [ROUNDS, CLIENTS]
        files += [name for name in FURTHER_LINES if (self._run / name).exists()]
        history = {name: (self._run / name).stat().st_size for name in files}
        edges = () if self._edges is None else edge_states(self._edges)
        snapshot = Snapshot(self._experiment.to_json(), state, memory, history, edges=edges)
        changed = () if self._keeper is None else self._keeper.changed_contexts()
        self._store.save(snapshot, changed, self._contexts)
        self._seconds += time.monotonic() - started

    def _end(self) -> None:
        started = time.monotonic()
        try:
            self._store.close()
        finally:
            self._seconds += time.monotonic() - started
            facts = {"written": self._store.saved, "bytes": self._store.bytes}
            add_to_manifest(self._run, {"checkpoints": {**facts, "waited-seconds": self._seconds}})

    def _contexts(self, partitions: Collection[int]) -> Mapping[int, RecordDict]:
        return {} if self._keeper is None else self._keeper.contexts(partitions)
