"""The ServerApp of this Flower App: HQDEStrategy for the experiment in the run's config."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.faults.backdoor import SUCCESS, Backdoor, attack_success
from hqde_fl.clients.faults.fault_errors import describe_error
from hqde_fl.clients.members import initial_state, split
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.errors import RunError
from hqde_fl.prediction import EnsemblePredictor
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import Aggregator
from hqde_fl.rules.base import State
from hqde_fl.simulations.checkpoint.callback import Checkpoints
from hqde_fl.simulations.checkpoint.resume import Point, exclusive, reopen
from hqde_fl.simulations.engines.deployment.guarded_grid import guard
from hqde_fl.simulations.experiment.held_out import hold_out
from hqde_fl.simulations.experiment.model import Experiment, experiment_file
from hqde_fl.simulations.experiment.own_modules import look_beside
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.honest_mean import HonestMean
from hqde_fl.simulations.recording.run_directory import MANIFEST, Run, RunDirectory
from hqde_fl.strategies.callbacks import Callback
from hqde_fl.strategies.confidence import HeldOut
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Aggregation, Communication, Participation, Reporting

EVALUATION_THREADS = 4
"""Threads that evaluate the global model, where there are as many: sums depend on their number."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment, record it, draw its report."""
    from hqde_fl.simulations.report import write_report

    out = serve(grid, context)
    write_report(Comparison.of(Run.load(out)), out)


def serve(
    grid: Grid, context: Context, callbacks: Sequence[Callback] = (), task: Task | None = None
) -> Path:
    """Run the experiment and record it.

    Parameters
    ----------
    grid : Grid
        The clients.
    context : Context
        Of the ServerApp: its ``run_config`` names the experiment and, as ``out``, the directory;
        as ``resume`` a directory whose run is to go on, or to begin if there is none in it.
    callbacks : Sequence[Callback]
        Who else wants to hear of the rounds.
    task : Task, optional
        The experiment's, from ``checked_task``, if it has been loaded already.

    Returns
    -------
    Path
        The run directory.

    Raises
    ------
    ConfigError
        If a fault cannot act on the task; nothing has been written then.
    """
    if file := experiment_file(context.run_config):
        look_beside(file)
    experiment = Experiment.from_run_config(context.run_config)
    task = task or experiment.checked_task()
    held_out = None
    if count := experiment.strategy.held_out:
        task, held_out = hold_out(task, count, experiment.seeds)
        experiment.planned.check_task(task)  # on the examples that are left
    resume = str(context.run_config.get("resume") or "")
    out = Path(resume or str(context.run_config.get("out") or default_directory(experiment.name)))
    with exclusive(out):
        point = reopen(out, experiment) if resume and (out / MANIFEST).exists() else None
        _run(guard(grid), experiment, (task, held_out), out, point, callbacks)
    return out


def _run(
    grid: Grid,
    experiment: Experiment,
    data: tuple[Task, HeldOut | None],
    out: Path,
    point: Point | None,
    callbacks: Sequence[Callback],
) -> None:
    """Run the rounds, from the first one or from a point on."""
    task, held_out = data
    rule = experiment.rule

    def defence(member: int) -> tuple[Aggregator, State]:
        return rule, strategy.state.models[member].rule if strategy.state else {}

    measured = HonestMean(experiment.planned.in_round, experiment.screening)
    wanted = experiment.metrics.honest_mean
    resumed = None if point is None else {"round": point.round, "refused": point.refused}
    measures = {"honest-mean": measured} if wanted else None
    directory = RunDirectory(out, experiment, measures, resumed)
    seen = experiment.planned.adversary(
        experiment.planned.watched(grid), defence, experiment.screening
    )
    checkpoints = Checkpoints(out, experiment, seen, point)
    options = experiment.strategy
    strategy = HQDEStrategy(
        Aggregation(
            rule,
            experiment.server_optimizer,
            options.quorum,
            held_out,
            options.confidence_metric,
        ),
        communication=Communication(
            experiment.codec, experiment.downlink, experiment.screening, options.deadline
        ),
        participation=Participation(
            experiment.selector,
            options.fraction_evaluate,
            min_available_nodes=experiment.clients.count,
            identify=True,
        ),
        ensemble=experiment.ensemble,
        reporting=Reporting((directory, checkpoints, *callbacks), options.density),
        seed=experiment.seed,
    )

    with (
        directory.recording(),
        checkpoints.writing(),
        directory.interruption_first(),
        deterministic(),
    ):
        members = experiment.clients.members
        strategy.start(
            measured.grid(seen) if wanted else seen,
            to_record(initial_state(task, members, experiment.seeds)),
            experiment.rounds,
            evaluate_fn=evaluation(
                task, members, experiment.planned.backdoor, experiment.predictor
            ),
            resume=None if point is None else point.state,
        )


def default_directory(name: str) -> Path:
    """Where a run goes that was not told where to go."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def evaluation(
    task: Task,
    members: int,
    backdoor: Backdoor | None = None,
    predictor: EnsemblePredictor | None = None,
) -> Callable[[int, ArrayRecord], MetricRecord]:
    """The function that measures the global model on the test set: together, and each member."""
    threads = min(EVALUATION_THREADS, os.cpu_count() or 1)
    data = task.test()
    with reproducible(0):  # building a model draws numbers that nobody else should miss
        models = [task.model() for _ in range(members)]

    def measure(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        for model, state in zip(models, split(from_record(arrays), members), strict=True):
            model.load_state_dict(state)
        with reproducible(0, threads):
            found = dict(evaluate(models, data, task, predictor=predictor))
            if backdoor is not None:
                try:
                    found[SUCCESS] = attack_success(models, data, task, backdoor, predictor)
                except Exception as error:
                    raise RunError(
                        "the success of fault 'backdoor' could not be measured in round "
                        f"{server_round}: {describe_error(error)}"
                    ) from error
            return MetricRecord(dict(found))

    return measure


@contextmanager
def deterministic() -> Iterator[None]:
    """Use deterministic algorithms, where torch has them, for as long as this lasts."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
