"""Compute single rounds of a recorded run again, from its checkpoints, and compare the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from flwr.app import RecordDict

from hqde_fl.errors import CheckpointError, ConfigError, RunError
from hqde_fl.simulations.checkpoint.resume import ResumePoint, stored_experiment
from hqde_fl.simulations.checkpoint.store import TREE, Snapshot, Store
from hqde_fl.simulations.engines.locked_folder import temporary_folder
from hqde_fl.simulations.engines.ray.packing import pack
from hqde_fl.simulations.engines.torch_settings import without_autocast
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.file_names import CLIENTS, PRIVACY, ROUNDS
from hqde_fl.simulations.recording.recorded_run import Run, read_lines
from hqde_fl.simulations.recording.round_chain import CHAIN_HASH, lasting
from hqde_fl.simulations.recording.run_directory import append_lines
from hqde_fl.simulations.verification.chain_check import Mismatch, clients_by_round

NOT_COMPARED = (CHAIN_HASH, "edges")
"""Keys of lines that are not compared: the chain follows from the others, and among the bytes of
each level of edges are those of what a resumed run sends again."""


@final
class Recomputation:
    """Computes rounds of a recorded run again, in this process.

    Parameters
    ----------
    run : Run
        The run.

    Raises
    ------
    ConfigError
        If its rounds cannot be computed again here: random numbers that protect data came from no
        seed, or the task's data are not here.
    """

    def __init__(self, run: Run) -> None:
        from hqde_fl.simulations.client_app import build_app

        stored = stored_experiment(run.path)
        own = {
            "engine": {"name": "inline"},
            "checkpoint": {"every": 1, "keep": 1},
            "monitor": {"enabled": False},
            "callbacks": [],
            "strategy": {**stored["strategy"], "executor": {"name": "auto"}},
        }
        self._run, self._store = run, Store(run.path)
        self._experiment = Experiment.parse({**stored, **own})
        _check_seeded(self._experiment)
        self._task = self._experiment.checked_task()
        self._app = build_app(self._experiment, self._task)
        self._clients = clients_by_round(run)
        engines = [
            run.manifest.get("engine"),
            *(r["engine"] for r in run.manifest.get("resumed", ())),
        ]
        self._knows_clients = "flower" not in engines  # there the nodes keep the clients' states

    def bases(self) -> list[int]:
        """Return the rounds from which others can be computed, in order; 0 is the beginning."""
        return sorted({0, *(self._store.numbers() if self._knows_clients else ())})

    def differences(self, base: int, last: int) -> Iterator[Mismatch]:
        """Compute the rounds after ``base`` until ``last`` again, and yield what differs.

        Parameters
        ----------
        base : int
            A round after which there is a checkpoint; 0 for the beginning.
        last : int
            A later round.
        """
        with temporary_folder() as folder:
            again = (
                folder / "run"
            )  # the folder itself is locked, as a run directory is while written
            again.mkdir()
            try:
                point = self._point(base, again) if base else None
            except CheckpointError as error:
                yield Mismatch(last, f"cannot be computed, the checkpoint of round {base}: {error}")
                return
            contexts = self._compute(again, point, last)
            own = Run(again, {}, read_lines(again / ROUNDS), read_lines(again / CLIENTS))
            yield from self._compare(own, range(base + 1 if base else 0, last + 1))
            if last in Store(again).numbers():
                yield from self._compare_states(Store(again).snapshot(last), contexts)

    def _point(self, base: int, again: Path) -> ResumePoint:
        """Return the state after the round ``base``, and write what else a resumed run reads."""
        snapshot = self._store.snapshot(base)
        contexts = self._store.contexts(snapshot)
        lines = [dict(line) for line in self._run.rounds if line["round"] <= base]
        follows = self._experiment.stopping.follows  # a metric through all rounds
        append_lines(again / ROUNDS, lines if follows else lines[-1:])
        ledger = read_lines(self._run.path / PRIVACY)
        if ledger:
            append_lines(again / PRIVACY, [dict(line) for line in ledger if line["round"] <= base])
        return ResumePoint(Store(again), snapshot.state, snapshot.attack, contexts, snapshot.edges)

    def _compute(
        self, again: Path, point: ResumePoint | None, last: int
    ) -> Mapping[int, RecordDict]:
        """Run the rounds until ``last``, and return the clients' states after it."""
        from hqde_fl.simulations.engines.inline import InlineGrid
        from hqde_fl.simulations.server_app import serve

        experiment, clients = self._experiment, self._experiment.clients.count
        grid = InlineGrid(self._app, clients, {}, experiment.seed)
        try:
            with without_autocast():
                serve(grid, experiment, self._task, again, point=point, until=last)
            return grid.contexts(range(clients))
        except RunError:
            # without an aggregate a run has failed, but its lines say what happened
            if not any(line["round"] == last for line in read_lines(again / ROUNDS)):
                raise
            return grid.contexts(range(clients))
        finally:
            grid.close()

    def _compare(self, own: Run, rounds: range) -> Iterator[Mismatch]:
        recorded = {line["round"]: line for line in self._run.rounds}
        computed = {line["round"]: line for line in own.rounds}
        clients = clients_by_round(own)
        for number in rounds:
            if number not in computed or number not in recorded:
                where = "the run" if number not in recorded else "the recomputed run"
                yield Mismatch(number, f"is not in {where}")
                continue
            if keys := _differing(recorded[number], computed[number]):
                yield Mismatch(number, f"computed again, differs in {', '.join(keys)}")
            before, now = self._clients.get(number, []), clients.get(number, [])
            if len(before) != len(now):
                yield Mismatch(
                    number, f"has {len(before)} clients' lines, computed again {len(now)}"
                )
                continue
            keys = sorted({k for a, b in zip(before, now, strict=True) for k in _differing(a, b)})
            if keys:
                yield Mismatch(number, f"computed again, its clients differ in {', '.join(keys)}")

    def _compare_states(
        self, computed: Snapshot, contexts: Mapping[int, RecordDict]
    ) -> Iterator[Mismatch]:
        """Yield a finding if the run's checkpoint of a round holds another state of the run."""
        last = computed.state.round
        if last not in self._store.numbers():
            return
        try:
            recorded = self._store.snapshot(last)
            before = _content(recorded, self._store.contexts(recorded))
        except CheckpointError as error:
            yield Mismatch(last, f"its checkpoint: {error}")
            return
        now = _content(computed, contexts)
        if not self._knows_clients:
            del before["clients"]
        if keys := sorted(name for name in before if before[name] != now[name]):
            yield Mismatch(last, f"its checkpoint holds other {', '.join(keys)}")


def _content(snapshot: Snapshot, contexts: Mapping[int, RecordDict]) -> dict[str, Any]:
    """Return the parts of a state that a resumed run has to the bit, as comparable values."""
    parts = {
        "models": [
            (m.layout, m.flat, dict(m.others), dict(m.moments), dict(m.rule), m.control)
            for m in snapshot.state.models
        ],
        "attackers": dict(snapshot.attack),
        "clients": [(part, pack(state)) for part, state in sorted(contexts.items())],
        "edges": [dict(edge) for edge in snapshot.edges],
    }
    found: dict[str, Any] = {}
    for name, part in parts.items():
        text, arrays = TREE.dump(part)
        found[name] = text, {key: bytes(stored.data) for key, stored in arrays.items()}
    return found


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys in which two lines differ, but for what runs of one experiment differ in."""
    one, other = lasting(before), lasting(now)
    keys = sorted(one.keys() | other.keys())
    return [key for key in keys if key not in NOT_COMPARED and one.get(key) != other.get(key)]


def _check_seeded(experiment: Experiment) -> None:
    """Raise ``ConfigError`` if random numbers of a run were to come from no seed."""
    parts = experiment.parts
    for key, privacy in (
        ("privacy", parts.aggregation.privacy),
        ("clients.local-dp", parts.client_privacy.local),
        ("clients.dp-sgd", parts.client_privacy.examples),
    ):
        if privacy is not None and not privacy.noise.seeded:
            raise ConfigError(
                f"the run cannot be computed again: {key}.noise came from a secure generator; "
                "`--spot 0` checks its chain alone"
            )
