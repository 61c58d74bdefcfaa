"""Open a run directory again to resume its run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from hqde_fl.errors import CheckpointError, ConfigError
from hqde_fl.given_objects import given_objects
from hqde_fl.own_modules import searched_first
from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.checkpoint.store import Snapshot, Store
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.directory_lock import directory_lock
from hqde_fl.simulations.recording.file_names import CLIENTS, FURTHER_LINES, MANIFEST, ROUNDS
from hqde_fl.simulations.recording.manifest import read_manifest
from hqde_fl.strategies.state import ServerState

CHANGEABLE_TABLES = ("engine", "checkpoint", "callbacks", "monitor")
"""Configuration tables that may change when a run is resumed."""


@dataclass(frozen=True, eq=False)
class ResumePoint:
    """State from which a run resumes.

    Parameters
    ----------
    store : Store
        The checkpoints of the run.
    state : ServerState or None
        The server's state; None if the run has to start again.
    attack : Mapping[str, Any]
        The memory of colluding attackers.
    contexts : Mapping[int, RecordDict]
        Partition id -> state of its client.
    edges : tuple[Mapping[str, Any], ...]
        The state of each edge, where there are edges.
    refused : Mapping[str, str]
        Names of checkpoint files that cannot be used, and the reasons.
    """

    store: Store
    state: ServerState | None = None
    attack: Mapping[str, Any] = field(default_factory=dict)
    contexts: Mapping[int, RecordDict] = field(default_factory=dict)
    edges: tuple[Mapping[str, Any], ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def round(self) -> int | None:
        """The last completed round; None if the run has to start again."""
        return None if self.state is None else self.state.round


def reopen(run: Path, experiment: Experiment) -> ResumePoint:
    """Return the newest usable checkpoint, and cut off the records of later rounds.

    If there is no checkpoint at all, cut off all records; the run then has to start again.

    Parameters
    ----------
    run : Path
        The run directory.
    experiment : Experiment
        The experiment to resume: that of the run, except for ``CHANGEABLE_TABLES`` and more rounds.

    Raises
    ------
    ConfigError
        If the directory holds the run of another experiment; the message names the key.
    CheckpointError
        If there are checkpoints, but none that can be used.
    """
    store = Store(run, experiment.checkpoint.keep)
    checkpoint, refused = store.latest(lambda snapshot: _check_history(run, snapshot))
    for name, reason in refused.items():
        log(WARNING, "checkpoint %s refused: %s", name, reason)
    if checkpoint is None:
        require_same(run, stored_experiment(run), experiment)
        log(WARNING, "%s has no checkpoint yet: the run begins again", run)
        _cut(run, dict.fromkeys((ROUNDS, CLIENTS, *FURTHER_LINES), 0))
        return ResumePoint(store)
    snapshot = checkpoint.snapshot
    require_same(run, json.loads(snapshot.experiment), experiment)
    _cut(run, {**dict.fromkeys(FURTHER_LINES, 0), **snapshot.history})
    return ResumePoint(
        store, snapshot.state, snapshot.attack, checkpoint.contexts, snapshot.edges, refused
    )


def stored_experiment(run: Path) -> Mapping[str, Any]:
    """Return the experiment of a run directory, from its manifest or else its newest checkpoint.

    Raises
    ------
    ConfigError
        If there is no run in the directory.
    """
    try:
        return dict(read_manifest(run)["experiment"])
    except ConfigError:
        snapshot = Store(run).newest() if (run / MANIFEST).exists() else None
        if snapshot is None:
            raise
    log(WARNING, "%s has no readable %s: its newest checkpoint is asked", run, MANIFEST)
    return dict(json.loads(snapshot.experiment))


def stored_folders(run: Path | None) -> list[str]:
    """Return the folders in which a run looked for the user's own modules.

    The list is empty if they are not recorded, or if ``run`` is None.
    """
    if run is not None:
        with suppress(ConfigError):
            return [str(folder) for folder in read_manifest(run).get("import-from", ())]
    return []


def given_or_stored(
    file: Path | None, out: Path | None, resume: Path | None, overrides: Sequence[str]
) -> Experiment:
    """Return the experiment in ``file`` or else that of the run ``resume``, with overrides applied.

    Raises
    ------
    ConfigError
        If neither ``file`` nor ``resume`` is given, or both ``out`` and ``resume`` are.
    """
    if out is not None and resume is not None:
        raise ConfigError("--resume goes on in its own directory: leave out --out")
    if file is not None:
        return Experiment.load(file, overrides)
    if resume is None:
        raise ConfigError("FILE is missing: the experiment to run, or --resume DIR to go on")
    return Experiment.parse(stored_experiment(resume), overrides)


def require_same(run: Path, stored: Mapping[str, Any], experiment: Experiment) -> None:
    """Raise ``ConfigError`` unless an experiment may resume the stored one.

    Only ``CHANGEABLE_TABLES`` may differ, and ``rounds`` may be larger. The message names the first
    other key that differs.
    """
    with given_objects(experiment.objects), searched_first(experiment.folder):
        known = Experiment.parse({**stored, "callbacks": []})  # with keys that are new
    before = _flat(known.to_table())
    now = _flat(experiment.to_table())
    for key in sorted(before.keys() | now.keys()):
        if key.partition(".")[0] in CHANGEABLE_TABLES or before.get(key) == now.get(key):
            continue
        if key == "rounds" and now[key] > before[key]:
            continue
        raise ConfigError(
            f"{run} was run with {key} = {_shown(before, key)}, found {_shown(now, key)}: "
            "to go on, only rounds may grow, and [engine], [checkpoint] and [monitor] change"
        )


@contextmanager
def exclusive(run: Path, wait: float = 60.0) -> Iterator[None]:
    """Hold the lock of a run directory, which is created if it does not exist.

    The operating system releases the lock when the process ends, for whatever reason.

    Parameters
    ----------
    run : Path
        The run directory.
    wait : float
        Maximum number of seconds to wait for another process, for instance one that is ending.

    Raises
    ------
    ConfigError
        If another process still holds the lock then.
    """
    run.mkdir(parents=True, exist_ok=True)
    in_use = ConfigError(f"{run} is in use: another process is writing into it")
    with directory_lock(run, in_use, wait):
        yield


def _check_history(run: Path, snapshot: Snapshot) -> None:
    """Raise ``CheckpointError`` unless a snapshot fits ``rounds.jsonl`` and ``clients.jsonl``.

    Each must have at least the length that the snapshot says, with the end of a line there.
    """
    if set(snapshot.history).difference(FURTHER_LINES) != {ROUNDS, CLIENTS}:
        raise CheckpointError(f"goes with {sorted(snapshot.history)}, needs {[ROUNDS, CLIENTS]}")
    for name, size in snapshot.history.items():
        data = (run / name).read_bytes() if (run / name).exists() else b""
        if len(data) < size or (size and data[size - 1 : size] != b"\n"):
            raise CheckpointError(f"{name} has {len(data)} bytes, needs the {size} of then")


def _cut(run: Path, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if (run / name).exists() and (run / name).stat().st_size > size:
            os.truncate(run / name, size)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested table as one table with dotted keys that begin with ``prefix``.

    Lists stay unchanged.
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "nothing"
