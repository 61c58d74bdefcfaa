"""The ServerApp of this Flower App, which runs the experiment of the run's config."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, MetricRecord, UserConfig
from flwr.serverapp import Grid, ServerApp
from torch import nn

from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.faults.backdoor_base import SUCCESS, BackdoorFault, attack_success
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.initial_state import build_member, initial_roles, initial_state
from hqde_fl.clients.objective import VALIDATION
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import load_test_set, load_validation_set
from hqde_fl.errors import RunError
from hqde_fl.prediction import EnsemblePredictor
from hqde_fl.protocol.grid_protocols import KeepsContexts
from hqde_fl.protocol.members import split_members
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble
from hqde_fl.simulations.checkpoint.callback import Checkpoints
from hqde_fl.simulations.checkpoint.resume import ResumePoint, exclusive, reopen
from hqde_fl.simulations.checkpoint.run_places import RunPlaces
from hqde_fl.simulations.edges.edge_job import JOB, serve_job
from hqde_fl.simulations.edges.recording import EdgeRecording
from hqde_fl.simulations.edges.surroundings import edge_grid, sent_bytes
from hqde_fl.simulations.engines.cache_folder import CacheFolder
from hqde_fl.simulations.engines.deployment.guarded_grid import GuardedGrid, guard
from hqde_fl.simulations.engines.deployment.numbered_grid import NumberedGrid
from hqde_fl.simulations.engines.flower.round_lines import LOG_ROUNDS, LoggedRounds
from hqde_fl.simulations.experiment.experiment import Experiment, experiment_file
from hqde_fl.simulations.experiment.held_out import judge, set_aside
from hqde_fl.simulations.experiment.own_modules import add_folder_of
from hqde_fl.simulations.experiment.root_training import root_training
from hqde_fl.simulations.experiment.sections import StoppingSection
from hqde_fl.simulations.experiment.voters import Voters
from hqde_fl.simulations.heterogeneity.message_bytes import SentBytes
from hqde_fl.simulations.recording.best_model import BestModel
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.file_names import MANIFEST
from hqde_fl.simulations.recording.honest_mean import HonestMean
from hqde_fl.simulations.recording.json_log import start_json_log
from hqde_fl.simulations.recording.manifest import add_to_manifest
from hqde_fl.simulations.recording.monitoring import monitored
from hqde_fl.simulations.recording.privacy_ledger import FileLedger
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.run_callbacks import informed
from hqde_fl.simulations.recording.run_directory import Measure, RunDirectory, own_clients
from hqde_fl.simulations.recording.run_ids import note_run_id
from hqde_fl.strategies.callbacks import Callback
from hqde_fl.strategies.confidence import HeldOut
from hqde_fl.strategies.edges.edge_grid import EdgeGrid
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.run_report import EvaluateFn
from hqde_fl.strategies.server_data import RootTraining
from hqde_fl.strategies.settings import Communication, Participation, Reporting
from hqde_fl.strategies.state import ModelState
from hqde_fl.strategies.stopping import EarlyStopping, Stopping
from hqde_fl.terminal_text import describe_error

EVALUATION_THREADS = 4
"""Most threads that evaluate the global model; the last bits of sums depend on their number."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment of the run's config, record it, and draw its report."""
    from hqde_fl.simulations.report import report_or_warn

    start_json_log("server")
    if job := context.run_config.get(JOB):
        serve_edge(grid, context.run_config, Path(str(job)))
        return
    out = serve_run_config(grid, context.run_config, context.run_id)
    report_or_warn(Comparison.of(Run.load(out)), out)


def serve_edge(grid: Grid, run_config: UserConfig, job: Path) -> None:
    """Let the nodes of an edge's own SuperLink do the job in a file."""
    if file := experiment_file(run_config):
        add_folder_of(file)
    with deterministic():
        serve_job(grid, Experiment.from_run_config(run_config), job)


def serve_run_config(grid: Grid, run_config: UserConfig, run_id: int | None = None) -> Path:
    """Run the experiment of a Flower run's config and record it.

    Parameters
    ----------
    grid : Grid
        The clients.
    run_config : UserConfig
        Names the experiment and, as ``out``, the run directory, by default a new one in ``runs/``;
        as ``resume`` a directory whose run is to go on, or to begin if there is none in it.
    run_id : int, optional
        Flower's id of the run, under which a run directory that is chosen here can be found.

    Returns
    -------
    Path
        The run directory.
    """
    if file := experiment_file(run_config):
        add_folder_of(file)
    experiment = Experiment.from_run_config(run_config)
    resume = str(run_config.get("resume") or "")
    out = Path(resume or str(run_config.get("out") or default_directory(experiment.name)))
    task = experiment.checked_task(clients=False)  # their data may be on other hosts
    if run_id is not None and not run_config.get("out"):
        note_run_id(out, run_id)
    callbacks = (LoggedRounds(),) if run_config.get(LOG_ROUNDS) else ()
    serve(grid, experiment, task, out, resume=bool(resume), callbacks=callbacks)
    return out


def serve(
    grid: Grid,
    experiment: Experiment,
    task: Task,
    out: Path,
    *,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    point: ResumePoint | None = None,
    until: int | None = None,
) -> None:
    """Run an experiment on a grid and record it.

    Parameters
    ----------
    grid : Grid
        The clients.
    experiment : Experiment
        The experiment.
    task : Task
        The experiment's, from ``checked_task``.
    out : Path
        The run directory.
    resume : bool, default=False
        Go on with the run in ``out`` after its last checkpoint, or begin it if there is none.
    callbacks : Sequence[Callback]
        Further callbacks of the strategy.
    point : ResumePoint, optional
        The state to go on from, instead of that in ``out``.
    until : int, optional
        Stop after this round, which is the last one only for those who stop.

    Raises
    ------
    ConfigError
        If a fault cannot act on the examples that are left of the test set where some are held out,
        real nodes are to be slow in virtual time, or their data is to be protected by noise from a
        seed; nothing has been written then.
    """
    held_out = voters = root = None
    seeds = experiment.parts.seeds
    if count := experiment.strategy.root_examples:
        task, examples = set_aside(task, count, seeds, "root-examples")
        if experiment.parts.aggregation.root_training is not None:
            root = root_training(task, examples, experiment.parts.training, seeds)
    if count := experiment.strategy.held_out:
        task, examples = set_aside(task, count, seeds)
        if experiment.parts.aggregation.held_out is not None:
            held_out = judge(task, examples, seeds, experiment.held_out_measure())
        if experiment.clients.voters:
            voters = Voters(task, examples, experiment.clients.voters, seeds)
    if experiment.strategy.held_out or experiment.strategy.root_examples:
        experiment.parts.faults.check_task(task)
    guarded = guard(grid)
    experiment.check_nodes(real_nodes=isinstance(guarded, GuardedGrid))
    with exclusive(out):
        if point is None and resume and (out / MANIFEST).exists():
            point = reopen(out, experiment)
        data = (task, held_out, voters, root)
        _run_rounds(guarded, experiment, data, out, point, callbacks, until)


def _run_rounds(
    grid: Grid,
    experiment: Experiment,
    data: tuple[Task, HeldOut | None, Voters | None, RootTraining | None],
    out: Path,
    point: ResumePoint | None,
    callbacks: Sequence[Callback],
    until: int | None = None,
) -> None:
    """Run and record the rounds, from ``point`` if that is given, else from the first one."""
    task, held_out, voters, root = data
    parts, roles = experiment.parts, initial_roles(task)
    faults, edges = parts.faults, parts.edges

    def model(member: int = 0) -> ModelState:
        assert strategy.state is not None
        return strategy.state.models[member]

    def edge_nodes() -> EdgeGrid:
        assert edge_layer is not None
        return edge_layer

    real_nodes = isinstance(grid, GuardedGrid)
    real_edges = edges is not None and experiment.edges.nodes
    if real_nodes and not real_edges:
        clients = experiment.clients
        grid = NumberedGrid(grid, out, None if clients.registered else clients.count)
    if experiment.checkpoint.every and edges is None and not isinstance(grid, KeepsContexts):
        grid = RunPlaces(grid, out, experiment.checkpoint)
    monitor = monitored(out, experiment.monitor, grid)
    sizes = SentBytes(model) if edges is None else sent_bytes(edge_nodes)
    grid = parts.heterogeneity.simulate(grid, sizes, faults.delays)
    if not real_edges:  # the clients are those of the edges' own runs
        grid = faults.supervise(grid)
    cache = None if edges is None or real_edges else CacheFolder()
    edge_layer = None
    if cache is not None:
        edge_layer = edge_grid(grid, parts, model, cache.path, roles, real_nodes=real_nodes)
    settings = _server_settings(experiment, task)
    nodes, hostile = grid, faults
    if edges is not None:
        hostile = edges.faults
        nodes = hostile.supervise(grid if edge_layer is None else edge_layer)
    attacked = hostile.add_attackers(
        nodes,
        lambda member: (parts.rule, model(member).rule),
        lambda member: model(member).sent,
        settings.communication.screening,
    )
    honest_mean = HonestMean(hostile.in_round, model, settings.communication.screening)
    measured = experiment.metrics.honest_mean
    measures: dict[str, Measure] = {"honest-mean": honest_mean} if measured else {}
    if voters is not None:
        measures["voters"] = voters.measure
    resumed = None if point is None else {"round": point.round, "refused": point.refused}
    clients_of = own_clients
    if edges is not None:
        recording = EdgeRecording(out, edge_layer, edges)
        clients_of, measures["edges"] = recording.clients_of, recording.measure
    directory = RunDirectory(out, experiment, measures, resumed, task.objective, clients_of)
    checkpoints = Checkpoints(out, experiment, attacked, point, edge_layer)
    stopping = early_stopping(experiment.stopping, task)
    best = () if stopping is None else (BestModel(out, stopping),)
    others = (*experiment.new_callbacks(), *callbacks)
    strategy = HQDEStrategy(
        replace(parts.aggregation, held_out=held_out, root_training=root),
        communication=settings.communication,
        participation=settings.participation,
        ensemble=settings.ensemble,
        reporting=Reporting(
            (directory, *best, checkpoints, *others), experiment.strategy.density, FileLedger(out)
        ),
        seed=experiment.seed,
        roles=roles,
    )
    members, rounds = parts.ensemble.members, experiment.rounds

    def end_early(number: int) -> bool:
        """Tell the callbacks why the run ends after a round, if it does, and return True then."""
        if stopping is None or not stopping.reason or number >= experiment.rounds:
            return False
        for callback in (directory, *others):
            callback.on_early_end(stopping.reason)
        return True

    with (
        ExitStack() as stack,
        informed(others, out, experiment),
        directory.recording(),
        monitor,
        checkpoints.writing(),
        directory.interruption_first(),
        deterministic(),
    ):
        if cache is not None:
            stack.callback(cache.close)
        if point is not None and point.round is not None:
            for callback in best:
                callback.resume()
            if end_early(point.round):  # it was killed as it ended
                rounds = point.round
        strategy.start(
            honest_mean.grid(attacked) if measured else attacked,
            to_record(initial_state(task, members, parts.seeds)),
            rounds,
            evaluate_fn=None
            if task.test is None and task.validation is None
            else at_rounds(
                evaluation(task, members, faults.backdoors, parts.predictor, parts.seeds, voters),
                experiment.metrics.every,
                experiment.rounds,
            ),
            should_stop=lambda number, _: number == until or end_early(number),
            resume=None if point is None else point.state,
        )
        if voters is not None and voters.last:
            add_to_manifest(out, {"voters": voters.last})


@dataclass(frozen=True)
class _ServerSettings:
    """Settings in which a server of clients differs from one of edges."""

    communication: Communication
    participation: Participation
    ensemble: Ensemble


def _server_settings(experiment: Experiment, task: Task) -> _ServerSettings:
    """Return the server's settings.

    Without a test set on the server, the clients evaluate the model.
    """
    parts = experiment.parts
    if (edges := parts.edges) is None:
        participation = parts.participation
        if experiment.clients.registered:
            minimum = max(experiment.strategy.quorum, parts.rule.minimum(), 1)
            participation = replace(participation, min_available_nodes=minimum)
        if task.test is None and not participation.fraction_evaluate:
            participation = replace(participation, fraction_evaluate=1.0)
        return _ServerSettings(parts.communication, participation, parts.ensemble)
    own = edges.settings
    return _ServerSettings(edges.communication, own.root_participation, own.root_ensemble)


def default_directory(name: str) -> Path:
    """Return the default run directory of an experiment, ``runs/NAME-TIME`` with the local time."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def evaluation(
    task: Task,
    members: int,
    backdoors: Mapping[str, BackdoorFault] | BackdoorFault | None = None,
    predictor: EnsemblePredictor | None = None,
    seeds: Seeds | None = None,
    voters: Voters | None = None,
) -> Callable[[int, ArrayRecord], MetricRecord]:
    """Return the function that measures the global model on the test set.

    It measures the ensemble's common prediction, each member, and the success of backdoors if any
    are given, as one or by their names: the greatest, and of several also each one's under its
    name; of the members that ``voters`` chooses, if these are given. On the validation set, if
    there is one, it measures the same but backdoors, as ``validation/accuracy`` and so on. The
    seeds are the run's, those of seed 0 if not given.
    """
    planted = {"backdoor": backdoors} if isinstance(backdoors, BackdoorFault) else backdoors or {}
    threads = min(EVALUATION_THREADS, os.cpu_count() or 1)
    data = None if task.test is None else load_test_set(task)
    validation = None if task.validation is None else load_validation_set(task)
    seeds = seeds or Seeds(0)
    fresh = [FreshModel(partial(build_member, task, seeds, number)) for number in range(members)]

    def measure(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        states = split_members(from_record(arrays), members)

        def models() -> list[nn.Module]:
            return [fresh[member].load(states[member]) for member in voting]

        voting: Sequence[int] = range(members)
        if voters is not None:
            voting = voters.choose(server_round, models())

        with reproducible(0, threads):
            metrics: dict[str, float] = {}
            success: dict[str, float] = {}
            if data is not None:
                metrics |= evaluate(models(), data, task, predictor=predictor)
            if validation is not None:
                measured = evaluate(models(), validation, task, predictor=predictor)
                metrics |= {f"{VALIDATION}{name}": value for name, value in measured.items()}
            for name, backdoor in planted.items():
                if data is None:
                    break
                try:
                    success[name] = attack_success(models(), data, task, backdoor, predictor)
                except Exception as error:
                    raise RunError(
                        f"the success of fault {name!r} could not be measured in round "
                        f"{server_round}: {describe_error(error)}"
                    ) from error
            if success:
                metrics[SUCCESS] = max(success.values())
            if len(success) > 1:
                metrics |= {f"{SUCCESS}-{name}": value for name, value in success.items()}
            return MetricRecord(dict(metrics))

    return measure


def at_rounds(measure: EvaluateFn, every: int, last: int) -> EvaluateFn:
    """Return an evaluation that is done in multiples of ``every`` and the last round only."""

    def in_round(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round % every and server_round != last:
            return None
        return measure(server_round, arrays)

    return in_round


def early_stopping(section: StoppingSection, task: Task) -> EarlyStopping | None:
    """Return what follows the metric of ``[stopping]``; None if none is followed."""
    if not section.follows:
        return None
    metric = f"{VALIDATION}{section.metric or task.objective.primary}"
    settings = Stopping(section.patience, section.min_delta, section.target or None)
    return EarlyStopping(metric, task.objective.higher_is_better(metric), settings)


@contextmanager
def deterministic() -> Iterator[None]:
    """Let torch use deterministic algorithms in the block, and only warn where it has none."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
