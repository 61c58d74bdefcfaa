"""Write the directory of a run: its manifest, a line for every round and client, the final model.

Everything in it is strict JSON (``null`` for numbers that are not finite) with kebab-case keys in a
fixed order. Times of day stand only in the manifest and durations only under keys that end in
``seconds``, so that two runs can be compared byte by byte apart from those.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from hqde_fl.clients.objective import ATTACK_SUCCESS, VALIDATION, Objective
from hqde_fl.errors import ConfigError, RunError, UnknownNameError
from hqde_fl.monitor.task_counters import TASKS, TaskCount
from hqde_fl.private_files import PRIVATE_MODE, private
from hqde_fl.protocol.records import from_record
from hqde_fl.rules.tree_report import NodeReport
from hqde_fl.simulations.console.interruption import interrupted, uninterrupted
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.hierarchy import HierarchyBound
from hqde_fl.simulations.experiment.own_modules import module_folders
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.environment import hardware, versions
from hqde_fl.simulations.recording.file_names import CLIENTS, MANIFEST, MODEL, POOL, ROUNDS, TREE
from hqde_fl.simulations.recording.manifest import (
    add_to_manifest,
    keep_reserve,
    read_manifest,
    record_end,
    timestamp,
    write_manifest,
)
from hqde_fl.simulations.recording.recorded_run import Run, read_lines
from hqde_fl.simulations.recording.round_chain import (
    CHAIN_HASH,
    MODEL_HASH,
    START,
    chain_hash,
    chain_of,
    model_hash,
)
from hqde_fl.simulations.recording.strict_json import to_json_value, to_kebab_case
from hqde_fl.simulations.recording.weights_file import weights_to_bytes
from hqde_fl.strategies.callbacks import Callback, ClientRecord, RoundRecord

CLIENT_METRICS = ("train-", "eval-")
"""Prefixes of the metrics that clients report."""

Measure = Callable[[RoundRecord, ArrayRecord], Mapping[str, Any]]
"""Takes a round and the model after it, returns an entry for the round's line."""

ClientsOf = Callable[[RoundRecord], Iterable[tuple[ClientRecord, Mapping[str, Any]]]]
"""Takes a round, returns its clients' records, each with further entries for the client's line."""


def own_clients(record: RoundRecord) -> Iterator[tuple[ClientRecord, Mapping[str, Any]]]:
    """Yield the clients' records of a round, without further entries."""
    for client in record.clients:
        yield client, {}


class RunDirectory(Callback):
    """A callback that records a run in a directory.

    Parameters
    ----------
    path : Path
        The directory; made if it does not exist.
    experiment : Experiment
        The experiment that is run.
    measures : Mapping[str, Measure], optional
        Further entries for every line of ``rounds.jsonl``, by their key.
    resumed : Mapping[str, Any], optional
        Facts about the resumption, for the manifest, if the directory holds a run to be resumed.
    objective : Objective, optional
        The task's primary metric and the direction of its metrics, for the manifest.
    clients_of : ClientsOf, optional
        Returns the clients of a round where they are not those of its record: those of edges.

    Raises
    ------
    ConfigError
        If the directory holds a run and ``resumed`` is not given.
    """

    def __init__(
        self,
        path: Path,
        experiment: Experiment,
        measures: Mapping[str, Measure] | None = None,
        resumed: Mapping[str, Any] | None = None,
        objective: Objective | None = None,
        clients_of: ClientsOf = own_clients,
    ) -> None:
        if resumed is None and (path / MANIFEST).exists():
            raise ConfigError(f"{path} holds another run: choose a directory that does not")
        self.path = path
        self._experiment, self._measures = experiment, dict(measures or {})
        self._filters = experiment.parts.filters
        self._attackers = experiment.lasting_attackers
        self._resumed, self._objective, self._clients_of = resumed, objective, clients_of
        self._final: Mapping[str, float | None] = {}
        self._hosts: dict[str, int] = {}
        self._chain = START

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the manifest's status while the block runs, and record how the block ended.

        The status is ``running``, then ``finished``, ``interrupted`` or ``failed``.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        experiment, started, resumptions = self._experiment, timestamp(), []
        folders = module_folders(experiment.to_table())
        if self._resumed is not None:
            before: Mapping[str, Any] = {}
            with suppress(ConfigError):  # the checkpoints suffice to resume
                before = read_manifest(self.path)
            rounds = read_lines(self.path / ROUNDS)
            self._final, self._chain = Run(self.path, before, rounds, ()).final, chain_of(rounds)
            started = before.get("started", started)
            now = {"at": timestamp(), "engine": experiment.engine.name, **self._resumed}
            resumptions = [*before.get("resumed", ()), now]
        manifest = {
            "name": experiment.name,
            "status": "running",
            "error": None,
            "started": started,
            "ended": None,
            "resumed": resumptions,
            "seed": experiment.seed,
            "engine": experiment.engine.name,
            "final": {},
            "breakdown": experiment.parts.rule.breakdown(_merged(experiment)),
            **_hierarchy(experiment),
            "filters": self._filters,
            **_edges(experiment),
            **_privacy(experiment),
            **({} if self._objective is None else {"objective": _objective(self._objective)}),
            "faulty": {str(client): name for client, name in experiment.faulty.items()},
            "experiment": experiment.to_table(),
            **({"import-from": folders} if folders else {}),
            "versions": versions(),
            "hardware": hardware(),
        }
        write_manifest(self.path, manifest)
        keep_reserve(self.path)
        for name in (ROUNDS, CLIENTS):
            (self.path / name).touch(PRIVATE_MODE)
        TASKS.take()  # those of an earlier run in this process
        try:
            yield
        except BaseException as error:
            if not self._record_interruption(error):
                with suppress(RunError):
                    record_end(self.path, "failed", f"{type(error).__name__}: {error}")
            raise
        record_end(self.path, "finished", final=self._final)

    @contextmanager
    def interruption_first(self) -> Iterator[None]:
        """Record an interruption of the block at once, before the blocks around it are ended."""
        try:
            yield
        except BaseException as error:
            self._record_interruption(error)
            raise

    def _record_interruption(self, error: BaseException) -> bool:
        """If an exception means that the run was interrupted, record that and return True."""
        # SystemExit is what Flower makes of the SIGTERM that stops a run
        ended = interrupted() or isinstance(error, KeyboardInterrupt | SystemExit)
        if ended:
            # the disk may be full, and that may be the error
            with uninterrupted(), suppress(RunError):
                record_end(self.path, "interrupted")
        return ended

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Append a round to ``rounds.jsonl`` and its clients to ``clients.jsonl``.

        Raises
        ------
        ConfigError
            If the server measures metrics, but not one that the objective names.
        """
        if self._objective is not None and record.server:
            _check_objective(self._objective, record.server)
        self._final = record.server or self._final
        faulty = cache(self._experiment.parts.faults.in_round)
        lines = []
        for client, further in self._clients_of(record):
            fault = faulty(client.round).get(partition := _partition(client))
            sleeping = fault is None and partition in self._attackers
            line = {**dataclasses.asdict(client), "fault": fault, "sleeping": sleeping, **further}
            lines.append(to_kebab_case(line))
        append_lines(self.path / CLIENTS, lines)
        measured = {name: measure(record, arrays) for name, measure in self._measures.items()}
        exclusion = Detection.of(lines, self._filters).to_line()
        entries = {"exclusion": exclusion, **measured, MODEL_HASH: model_hash(arrays)}
        if counts := TASKS.take():
            append_lines(self.path / POOL, [self._pool_line(record, count) for count in counts])
        if record.tree:
            append_lines(self.path / TREE, [_node_line(record, *node) for node in record.tree])
        line = round_line(record) | to_json_value(entries)
        self._chain = line[CHAIN_HASH] = chain_hash(self._chain, line, lines)
        append_lines(self.path / ROUNDS, [line])

    def on_early_end(self, reason: str) -> None:
        """Note in the manifest why the run ends before its last round."""
        add_to_manifest(self.path, {"ended-early": reason})

    def _pool_line(self, record: RoundRecord, count: TaskCount) -> dict[str, Any]:
        """Return tasks of one kind and host until the end of a round, for ``pool.jsonl``."""
        host = self._hosts.setdefault(count.host, len(self._hosts))
        return {"round": record.round, **dataclasses.asdict(count), "host": host}

    def on_end(self, arrays: ArrayRecord) -> None:
        """Save the final model as ``model.safetensors``."""
        replace_file(self.path / MODEL, weights_to_bytes(from_record(arrays)))


def round_line(record: RoundRecord) -> dict[str, Any]:
    """Return a round as a line of ``rounds.jsonl``: all its fields but clients and tree."""
    fields = [field.name for field in dataclasses.fields(record)]
    return to_kebab_case(
        {name: getattr(record, name) for name in fields if name not in ("clients", "tree")}
    )


def _node_line(record: RoundRecord, member: int, node: NodeReport) -> dict[str, Any]:
    """Return what a node of the rule's tree did in a round as a line of ``tree.jsonl``."""
    return {
        "round": record.round,
        "member": member,
        "node": node.path,
        "level": node.level,
        "children": node.children,
        "bytes": node.bytes,
        "seconds": node.seconds,
    }


def _merged(experiment: Experiment) -> int:
    """Return the number of updates that the server merges in a round."""
    parts = experiment.parts
    return parts.sampled if parts.edges is None else parts.edges.count


def _hierarchy(experiment: Experiment) -> dict[str, Any]:
    """Return the manifest's entry about what a tree or edges bear, if there are any."""
    bound = HierarchyBound.of(experiment.parts)
    return {} if bound is None else {"hierarchy": bound.to_table()}


def _edges(experiment: Experiment) -> dict[str, Any]:
    """Return the manifest's entry about the edges, if there are any.

    The breakdown is that of the edges' rule in the smallest group.
    """
    parts = experiment.parts
    if (edges := parts.edges) is None:
        return {}
    hostile: dict[int, str] = {}
    for number in range(1, experiment.rounds + 1):
        hostile = edges.faults.in_round(number) | hostile
    facts = {
        "count": edges.count,
        "rounds": edges.settings.rounds,
        "breakdown": edges.rule.breakdown(parts.cohort),
        "faulty": {str(edge): name for edge, name in hostile.items()},
    }
    return {"edges": facts}


def _privacy(experiment: Experiment) -> dict[str, Any]:
    """Return the manifest's entries about differential privacy by the server and by clients."""
    of_clients = experiment.parts.client_privacy.facts(experiment.client_rounds)
    entries: dict[str, Any] = {"privacy-of-clients": of_clients} if of_clients else {}
    if (secure := experiment.parts.aggregation.secure_aggregation) is not None:
        entries["secure-aggregation"] = to_kebab_case(asdict(secure))
    if (plan := experiment.parts.plan) is None:
        return entries
    facts = {
        "adjacency": plan.sampling.adjacency,
        "sampling": str(plan.sampling),
        "accountant": plan.accountant.name,
        "delta": plan.privacy.delta,
        "noise": "seeded" if plan.privacy.noise.seeded else "from a secure generator",
    }
    return {**entries, "privacy": facts}


def _objective(objective: Objective) -> dict[str, Any]:
    name = objective.primary
    directions = {name: objective.higher_is_better(), **objective.directions}
    return {"primary": name, "higher-is-better": directions}


def _check_objective(objective: Objective, measured: Mapping[str, float]) -> None:
    """Raise ``UnknownNameError`` unless the metrics that an objective names are measured.

    The success of a backdoor is measured only if there is one, and clients report metrics that
    begin with ``train-`` or ``eval-``.
    """
    if measured.keys() <= {name for name in measured if name.startswith(VALIDATION)}:
        measured = {name.removeprefix(VALIDATION): value for name, value in measured.items()}
    if objective.primary not in measured:
        raise UnknownNameError("Task.primary metric", objective.primary, measured)
    for name in objective.directions:
        if name not in measured and name != ATTACK_SUCCESS and not name.startswith(CLIENT_METRICS):
            raise UnknownNameError("metric in Task.higher_is_better", name, measured)


def _partition(client: ClientRecord) -> int:
    return -1 if client.partition is None else client.partition


def append_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Append records to a ``.jsonl`` file; raise ``RunError`` if it cannot be written."""
    text = "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines)
    try:
        with open(path, "a", encoding="utf-8", opener=private) as file:
            file.write(text)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
