"""Run one experiment from beginning to end, on its engine."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.own_modules import search_in
from hqde_fl.rules import TorchDevice
from hqde_fl.simulations.checkpoint.resume import exclusive, require_same, stored_experiment
from hqde_fl.simulations.console.interruption import (
    ends_process,
    interrupted,
    interrupted_at,
    interruptible,
    uninterrupted,
)
from hqde_fl.simulations.engines.torch_settings import without_autocast
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.own_modules import own_file_modules
from hqde_fl.simulations.python_api.run_result import RunResult
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.file_names import MANIFEST, REPORT, ROUNDS
from hqde_fl.simulations.recording.manifest import (
    add_to_manifest,
    attempt_of,
    read_manifest,
    record_end,
    record_interruption,
)
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.run_directory import round_line
from hqde_fl.simulations.recording.run_follower import OnRound, follow_run
from hqde_fl.strategies.callbacks import Callback, RoundRecord

WORKER_MODULES = ("hqde_fl.simulations.client_app",)
"""Modules that Ray's workers import while the server loads its data."""

STOP_SECONDS = 10.0
"""Time in which another process that writes the run directory must end after its run."""

LEFTOVERS = (f".{MANIFEST}.new", "flower.log")
"""Files that a run which died before it wrote its manifest may leave."""


@dataclass(frozen=True)
class _Attempt:
    """One call of ``run_experiment``, as the engines see it.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    task : Task
        Its task, loaded and checked.
    out : Path
        The run directory.
    resume : bool
        Go on with the run in the directory, if there is one.
    on_round : Callable
        Called with each line of ``rounds.jsonl``.
    """

    experiment: Experiment
    task: Task
    out: Path
    resume: bool
    on_round: OnRound


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    *,
    engine: str | None = None,
    on_round: OnRound | None = None,
    superlink: str = "",
    report: bool = True,
    resume: bool = False,
) -> RunResult:
    """Run an experiment.

    In the main thread, Ctrl-C, SIGTERM and SIGHUP end the run and all that was started for it; its
    manifest says ``interrupted``. The earlier handlers are restored afterwards.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    out : str or Path
        The run directory: new or empty, unless what is in it is to be resumed. Nothing is written
        unless the experiment can start.
    engine : str, optional
        The engine to run it on; the experiment's own if not given.
    on_round : Callable, optional
        Called with each line of ``rounds.jsonl``.
    superlink : str, optional
        For the engine ``flower``: run on real nodes, those of a federation's directory
        (``hqde-fl nodes``) or of a SuperLink that Flower's configuration names.
    report : bool, default=True
        Draw ``report.html``; engine flower always does.
    resume : bool, default=False
        Resume the run in ``out`` after its last checkpoint, whatever ended it. It has to be a run
        of this experiment; only ``rounds`` may have grown, and the engine may be another one.
        Without a run in ``out``, one is started; a complete run is not changed.

    Raises
    ------
    ConfigError
        If the experiment's data is missing, a fault cannot act on its task, ``out`` is not empty,
        or the run in it is one of another experiment; the message names the key that differs.
    CheckpointError
        If there are checkpoints to resume from, but none of them is usable.
    RunError
        If the engine failed, or if no round of the run has an aggregate. What was recorded is kept,
        as it is when the run is interrupted.
    KeyboardInterrupt
        After Ctrl-C.
    SystemExit
        After SIGTERM (exit status 143) or SIGHUP (129).
    """
    if engine is not None:
        experiment = experiment.on_engine(engine)
    out = Path(out).resolve()
    if not (resume and _holds_run(out, experiment)):
        require_empty(out, leftovers=LEFTOVERS if resume else ())
    elif _is_complete(out, experiment, report):
        run = Run.load(out)
        return RunResult(out, run.manifest.get("final") or {}, run.void_rounds, experiment)
    if experiment.strategy.executor["name"] == "map-reduce" and experiment.engine.name != "ray":
        raise ConfigError(
            f"strategy.executor 'map-reduce' needs the engine ray, found {experiment.engine.name}"
        )
    if isinstance(executor := experiment.parts.aggregation.executor, TorchDevice) and not superlink:
        executor.check()
    if superlink and experiment.engine.name != "flower":
        raise ConfigError(f"a SuperLink needs engine flower, found {experiment.engine.name}")
    experiment.check_nodes(real_nodes=bool(superlink))
    if not superlink:
        check_resources(experiment)
    if experiment.folder is not None:
        search_in([experiment.folder])  # in the processes of the run as well
    flower = partial(_run_deployed, superlink=superlink) if superlink else _run_on_flower
    engines = {"flower": flower, "inline": _run_inline, "ray": _run_on_ray}
    with (
        _interruptible(on_round or _ignore) as listener,
        _ray_starting(experiment),
        _reported_on_failure(out, report),
    ):
        here = not superlink  # the data of real nodes, and of their server, are there
        task = experiment.checked_task(test=here, clients=here)
        engines[experiment.engine.name](_Attempt(experiment, task, out, resume, listener))
        if superlink and not (out / ROUNDS).exists():
            return RunResult(out, {}, given=experiment)  # the ServerApp's host has the rest
        if report and experiment.engine.name != "flower":
            from hqde_fl.simulations.report import report_or_warn

            report_or_warn(Comparison.of(Run.load(out)), out)
        run = Run.load(out)
        return RunResult(out, run.final, run.void_rounds, experiment)


def require_empty(out: Path, leftovers: Collection[str] = ()) -> None:
    """Raise ``ConfigError`` if a path exists, unless it is an empty directory.

    Parameters
    ----------
    out : Path
        The directory.
    leftovers : Collection[str]
        Names of files that may be in the directory nevertheless.
    """
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {*leftovers}):
        raise ConfigError(f"{out} exists and is not an empty directory: choose another --out")


def _holds_run(out: Path, experiment: Experiment) -> bool:
    """Return True if the directory holds a run; raise ``ConfigError`` if of another experiment."""
    if not (out / MANIFEST).exists():
        return False
    require_same(out, stored_experiment(out), experiment)
    return True


def _is_complete(out: Path, experiment: Experiment, report: bool) -> bool:
    """Return True if the run in the directory finished with at least the experiment's rounds.

    Then its report is drawn if ``report`` and it is missing.
    """
    try:
        manifest = read_manifest(out)
    except ConfigError:  # its checkpoints have the run
        return False
    if manifest["status"] != "finished" or manifest["experiment"]["rounds"] < experiment.rounds:
        return False
    if report and not (out / REPORT).exists():
        from hqde_fl.simulations.report import report_or_warn

        report_or_warn(Comparison.of(Run.load(out)), out)
    return True


def check_resources(experiment: Experiment) -> None:
    """Raise ``ConfigError`` if the engine cannot give the clients of a simulation what they ask."""
    if experiment.engine.name == "inline":
        return
    from hqde_fl.simulations.engines.ray.local_node import require_fit

    groups, address = experiment.parts.resources, ""
    if experiment.engine.name == "ray":
        address = experiment.engine.address
    elif len(groups) > 1 or groups[0].partitions:
        raise ConfigError("engine flower gives every client the same: one group without partitions")
    require_fit(groups, address)


def _run_inline(attempt: _Attempt) -> None:
    """Run the experiment with server and clients in this process."""
    from hqde_fl.simulations.client_app import build_app
    from hqde_fl.simulations.engines.inline import InlineGrid

    experiment = attempt.experiment
    app = build_app(experiment, attempt.task)
    grid = InlineGrid(app, experiment.clients.count, {}, experiment.seed)
    try:
        _serve(grid, attempt)
    finally:
        grid.close()


def _run_on_ray(attempt: _Attempt) -> None:
    """Run the clients in Ray's workers, here or on a cluster, and the server in this process."""
    from hqde_fl.simulations.client_app import app_for_workers
    from hqde_fl.simulations.engines.ray.grid import RayGrid

    experiment = attempt.experiment
    for_clients = experiment.for_clients()
    grid = RayGrid(
        app_for_workers(for_clients),
        experiment.clients.count,
        {"config": for_clients.to_json(), "own-files": own_file_modules(for_clients.to_table())},
        experiment.seed,
        resources=experiment.parts.resources,
        address=experiment.engine.address,
        runtime_env=dict(experiment.engine.runtime_env),
    )
    if grid.dashboard:
        print(f"Ray dashboard: http://{grid.dashboard}", file=sys.stderr)
    out = attempt.out
    before = attempt_of(out)
    try:
        _serve(grid, attempt)
    finally:
        with uninterrupted():
            grid.close()
            facts = {"ray": dataclasses.asdict(grid.counters)}
            _change_own(out, before, partial(add_to_manifest, out, facts))


@contextmanager
def _ray_starting(experiment: Experiment) -> Iterator[None]:
    """Start Ray in the background if the engine is ray; after an error let it finish starting."""
    if experiment.engine.name != "ray":
        yield
        return
    from hqde_fl.simulations.engines.ray.pool import prepare, wait_until_prepared

    engine, parts = experiment.engine, experiment.parts
    prepare(engine.address, engine.runtime_env, parts.resources, parts.sampled, WORKER_MODULES)
    try:
        yield
    except BaseException:
        if not ends_process():
            with uninterrupted():
                wait_until_prepared(STOP_SECONDS)
        raise


def _serve(grid: Grid, attempt: _Attempt) -> None:
    """Run the server of an attempt in this process, with clients behind ``grid``."""
    from hqde_fl.simulations import server_app

    with without_autocast():
        server_app.serve(
            grid,
            attempt.experiment,
            attempt.task,
            attempt.out,
            resume=attempt.resume,
            callbacks=[_RoundListener(attempt.on_round)],
        )


def _run_on_flower(attempt: _Attempt) -> None:
    """Run the experiment in the processes of ``flwr run``, which write the run directory.

    Its clients all get the same resources (``check_resources``).
    """
    from hqde_fl.simulations.engines.flower.engine import run_flower

    experiment, out = attempt.experiment, attempt.out
    resources = experiment.parts.resources[0]
    with _closed_on_failure(out), follow_run(out, attempt.on_round, attempt.resume):
        run_flower(
            experiment.to_json(),
            experiment.clients.count,
            out,
            cpus_per_client=resources.num_cpus,
            gpus_per_client=0 if resources.num_gpus == "auto" else resources.num_gpus,
            resume=attempt.resume,
            on_line=_ignore,
        )


def _run_deployed(attempt: _Attempt, superlink: str) -> None:
    """Run the experiment on real nodes; the SuperLink's processes write the run directory.

    Raise ``ConfigError`` to resume a run on a SuperLink that keeps its directories on its own host,
    or one that still goes on in its SuperLink.
    """
    from hqde_fl.simulations.deploy.named_superlink import find
    from hqde_fl.simulations.engines.flower.engine import run_deployed
    from hqde_fl.simulations.engines.flower.flower_run import unfinished_run

    experiment = attempt.experiment
    edges = experiment.parts.edges if experiment.edges.nodes else None
    clients = None if experiment.clients.registered else experiment.clients.count
    target = find(superlink, clients, 0 if edges is None else edges.count)
    out = attempt.out
    if attempt.resume and target.connection:
        raise ConfigError(
            f"{superlink} keeps its run directories on its own host: resume there, with "
            "`flwr run` and --run-config 'resume=\"DIR\"'"
        )
    if attempt.resume and (run_id := unfinished_run(out, target.superlink.home)):
        raise ConfigError(
            f"{out}: run {run_id} still goes on in the SuperLink of {superlink}: `hqde-fl top "
            f"{out}` shows it. Wait for its end, or stop it before you resume: "
            f"FLWR_HOME={target.superlink.home} flwr stop {run_id}"
        )
    named = target.connection
    on_line = _named_run_lines(named, attempt.on_round) if named else _ignore
    with _closed_on_failure(out), follow_run(out, attempt.on_round, attempt.resume):
        run_deployed(
            attempt.experiment.to_json(),
            out,
            target.superlink,
            connection=target.connection,
            resume=attempt.resume,
            on_line=on_line,
        )


def _named_run_lines(superlink: str, on_round: OnRound) -> Callable[[str], None]:
    """Return a function of each line of ``flwr run`` on a SuperLink that has a name.

    It says which run has started, and passes on the rounds.
    """
    from hqde_fl.simulations.engines.flower.flower_run import started_run
    from hqde_fl.simulations.engines.flower.round_lines import RoundReader

    reader = RoundReader(on_round)

    def read(line: str) -> None:
        if run_id := started_run(line):
            print(
                f"run {run_id} on {superlink}: `hqde-fl top {run_id} --superlink {superlink}` "
                "shows it, `hqde-fl fetch` with the same brings its files here",
                file=sys.stderr,
            )
        reader.read(line)

    return read


@contextmanager
def _reported_on_failure(out: Path, report: bool) -> Iterator[None]:
    """If ``RunError`` ends the block, draw the report of what was recorded, if ``report``."""
    try:
        yield
    except RunError:
        if report and (out / ROUNDS).exists():
            from hqde_fl.simulations.report import write_report

            with suppress(ConfigError, RunError):
                write_report(Comparison.of(Run.load(out)), out)
        raise


@contextmanager
def _closed_on_failure(out: Path) -> Iterator[None]:
    """If an exception ends the block, record the run's end, unless another process did."""
    before = attempt_of(out)
    try:
        yield
    except BaseException as error:
        with uninterrupted():
            if interrupted() or isinstance(error, KeyboardInterrupt):
                _change_own(out, before, partial(record_interruption, out, interrupted_at()))
            else:
                _change_own(out, before, partial(record_end, out, "failed", str(error)))
        raise


def _change_own(out: Path, before: tuple[str, int] | None, change: Callable[[], None]) -> None:
    """Call ``change``, which changes the manifest in ``out``, if this attempt wrote that manifest.

    ``before`` is ``attempt_of(out)`` before the attempt. Nothing is changed without a manifest, if
    it is still the earlier one, or if another process still writes there.
    """
    if attempt_of(out) not in (None, before):
        with suppress(ConfigError, RunError), exclusive(out, STOP_SECONDS):
            change()


@contextmanager
def _interruptible(on_round: OnRound) -> Iterator[OnRound]:
    """Let signals end a run; yield a function that calls ``on_round`` and then checks for signals.

    User code may take the KeyboardInterrupt for an error of its own, so it is raised again at the
    end of the round.
    """
    with interruptible() as interruption:

        def listener(line: Mapping[str, Any]) -> None:
            on_round(line)
            main = threading.current_thread() is threading.main_thread()
            if interruption.number is not None and main:
                raise KeyboardInterrupt

        yield listener


class _RoundListener(Callback):
    """Passes each round on as its line of ``rounds.jsonl``."""

    def __init__(self, on_round: OnRound) -> None:
        self._on_round = on_round

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Call the listener with the round's line of ``rounds.jsonl``."""
        self._on_round(round_line(record))


def _ignore(line: object) -> None:
    """Do nothing with a line."""
