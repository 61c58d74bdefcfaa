"""Run the cells of a sweep: one after the other in this process, or several in worker processes.

Every cell is an ordinary run in a directory that is named after its key; a cell that is there and
finished is not run again. One that fails is a row with its error, and the sweep goes on.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from hqde_fl.clients.objective import Objective
from hqde_fl.clients.task_check import require_validation
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.interruption import interruptible, uninterrupted
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.directory_lock import directory_lock
from hqde_fl.simulations.recording.file_names import INDEX
from hqde_fl.simulations.recording.manifest import record_end
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import require_empty
from hqde_fl.simulations.sweep.cell_run import is_finished, run_cell
from hqde_fl.simulations.sweep.cells import CELLS, Cell, Sweep
from hqde_fl.simulations.sweep.interim_report import InterimReport
from hqde_fl.simulations.sweep.tables import write_tables
from hqde_fl.simulations.sweep.worker import CellWorker

LOCK_SECONDS = 10.0
"""Seconds within which the worker processes of a sweep that was killed must have ended."""


class Watch:
    """Listener to a sweep; its methods do nothing, override those that you need."""

    def planned(self, cells: Sequence[Cell], finished: int) -> None:
        """Receive the cells that are going to run, and the number of those finished before."""

    def began(self, cell: Cell) -> None:
        """Receive a cell that begins."""

    def measured(self, cell: Cell, final: Mapping[str, float | None], objective: Objective) -> None:
        """Receive the final metrics of a cell that finished, now or before, and its objective."""

    def on_round(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Receive a round of a cell, as its line of ``rounds.jsonl``."""

    def ended(self, cell: Cell, error: str | None) -> None:
        """Receive a cell that has ended, and its error, None if it finished."""


def run_sweep(
    sweep: Sweep,
    out: Path,
    *,
    jobs: int = 1,
    resume: bool = False,
    watch: Watch | None = None,
    report: bool = True,
) -> Comparison:
    """Run the cells of a sweep, and return the comparison of their runs.

    A cell that fails is a row with its error; the others run nevertheless. Ctrl-C, SIGTERM and
    SIGHUP end the sweep as they end ``run_experiment``.

    Parameters
    ----------
    sweep : Sweep
        The sweep.
    out : Path
        New or empty, or the directory of a sweep to resume. Gets a run directory for each cell,
        ``sweep.json``, ``results.csv``, ``results.parquet``, ``timings.csv`` and ``report.html``.
    jobs : int, default=1
        Number of cells that run at once, each in a process of its own if > 1.
    resume : bool, default=False
        Go on with the sweep in ``out``: finished cells are kept, all others run from their
        beginning.
    watch : Watch, optional
        Listener.
    report : bool, default=True
        Draw the report and its figures.

    Raises
    ------
    ConfigError
        If ``out`` cannot be used, data is missing, a part of the user's own fails, a fault of a
        cell cannot act on its task, or the engine does not run several cells at once. Nothing has
        been run then.
    """
    check_jobs(sweep, jobs)
    out = out.resolve()
    if not resume:
        if (out / INDEX).exists():
            raise ConfigError(f"{out} holds a sweep: go on with --resume, or choose another --out")
        require_empty(out)
    elif not (out / INDEX).exists():
        raise ConfigError(f"{out} holds no sweep to resume: it has no {INDEX}")
    check_tasks(sweep)
    (out / CELLS).mkdir(parents=True, exist_ok=True)
    watch = watch or Watch()
    errors: dict[str, str | None] = {}

    def state() -> Comparison:
        cells = [(cell.labels, cell.directory, errors.get(cell.key)) for cell in sweep.cells]
        return Comparison.read(out, sweep.name, sweep.axes, cells, sweep.analysis, sweep.document)

    busy = ConfigError(f"another sweep is running in {out}")
    with directory_lock(out, busy, LOCK_SECONDS) as lock, interruptible():
        state().save(out)  # a sweep that is killed can then be shown and resumed
        missing = [c for c in sweep.distinct if not is_finished(out / c.directory, c.experiment)]
        watch.planned(missing, len(sweep.distinct) - len(missing))
        interim = InterimReport(out, state) if report else None
        listener = _Listener(watch, out, interim)
        for cell in sweep.distinct:
            if cell not in missing:
                listener.measure(cell)
        try:
            if jobs == 1 or not missing:
                _run_here(missing, out, listener, errors)
            else:
                _run_in_processes(missing, out, min(jobs, len(missing)), lock, listener, errors)
        except BaseException:
            if interim is not None:
                with uninterrupted():
                    interim.draw()
            raise
        finally:
            with uninterrupted():
                for cell in missing:  # a process that was killed could not record its end
                    error = errors.get(cell.key)
                    record_end(out / cell.directory, "failed" if error else "interrupted", error)
                comparison = state()
                comparison.save(out)
                write_tables(comparison, out)
        if report:
            from hqde_fl.simulations.report import report_or_warn

            report_or_warn(comparison, out)
    return comparison


class _Listener(Watch):
    """Passes events on to another watch, reads finished cells for it, and updates the report.

    Parameters
    ----------
    watch : Watch
        The other watch.
    out : Path
        The directory of the sweep.
    interim : InterimReport or None
        The report, unless none is to be drawn.
    """

    def __init__(self, watch: Watch, out: Path, interim: InterimReport | None) -> None:
        self._watch, self._out, self._interim = watch, out, interim

    def began(self, cell: Cell) -> None:
        """Tell the watch that a cell begins."""
        self._watch.began(cell)

    def on_round(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Tell the watch a round of a cell."""
        self._watch.on_round(cell, line)

    def measure(self, cell: Cell) -> None:
        """Tell the watch the final metrics of a finished cell."""
        run = Run.load(self._out / cell.directory)
        self._watch.measured(cell, run.final, run.objective)

    def ended(self, cell: Cell, error: str | None) -> None:
        """Tell the watch the cell's metrics and that it has ended; update the report."""
        if error is None:
            self.measure(cell)
        self._watch.ended(cell, error)
        if self._interim is not None:
            self._interim.refresh()


def check_tasks(sweep: Sweep) -> None:
    """Raise ``ConfigError`` if data is missing, a part fails, or a fault cannot act on its task.

    Each different task is loaded once, each combination of a task and faults checked once. No task
    is kept: a sweep over several would hold the data of all of them.
    """
    cells: dict[str, dict[str, Experiment]] = {}
    for cell in sweep.distinct:
        experiment = cell.experiment
        experiment.try_parts()
        cells.setdefault(repr(experiment.task), {})[repr(experiment.faults)] = experiment
    for experiments in cells.values():
        first, *others = experiments.values()
        task = first.checked_task()
        if sweep.analysis.choose:
            require_validation(task, "[sweep] choose")
        for experiment in others:
            experiment.parts.faults.check_task(task)


def check_jobs(sweep: Sweep, jobs: int) -> None:
    """Raise ``ConfigError`` unless ``jobs`` is 1, or more and the engine of all cells is inline."""
    if jobs < 1:
        raise ConfigError(f"--jobs must be >= 1, found {jobs}")
    engines = {cell.experiment.engine.name for cell in sweep.cells} - {"inline"}
    if jobs > 1 and engines:
        raise ConfigError(
            f"--jobs {jobs} needs engine inline, found {engines.pop()}, "
            "which runs the clients of a cell in parallel: add --engine inline, or leave out --jobs"
        )


def _run_here(
    cells: Sequence[Cell], out: Path, watch: Watch, errors: dict[str, str | None]
) -> None:
    """Run cells one after the other here; put the error of each, or None, in ``errors``."""
    for cell in cells:
        watch.began(cell)
        listen = partial(watch.on_round, cell)
        errors[cell.key] = run_cell(cell.experiment, out / cell.directory, listen)
        watch.ended(cell, errors[cell.key])


def _run_in_processes(
    cells: Sequence[Cell],
    out: Path,
    jobs: int,
    lock: int,
    watch: Watch,
    errors: dict[str, str | None],
) -> None:
    """Run cells in ``jobs`` worker processes; put the error of each, or None, in ``errors``.

    A thread follows each process, and the calling thread calls the watch.
    The threads belong to a ``ThreadPoolExecutor``, the processes to none: in a
    ``ProcessPoolExecutor`` one killed worker fails every cell that waits, a killed sweep leaves
    workers that write on, and scripts without a main guard cannot run a sweep.
    """
    news: queue.SimpleQueue[tuple[Cell, Mapping[str, Any] | Future[str | None] | None]]
    news = queue.SimpleQueue()
    workers = [CellWorker(out / f"worker-{index}.log", lock) for index in range(jobs)]
    idle: queue.SimpleQueue[CellWorker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(cell: Cell) -> str | None:
        worker = idle.get_nowait()  # there are as many as threads
        try:
            news.put((cell, None))
            listen = partial(_put, news, cell)
            return worker.run(cell.experiment, out / cell.directory, listen)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(jobs)
    try:
        for cell in cells:
            threads.submit(run, cell).add_done_callback(partial(_put, news, cell))
        left = len(cells)
        while left:
            cell, event = news.get()
            if event is None:
                watch.began(cell)
            elif isinstance(event, Future):
                errors[cell.key] = event.result()
                left -= 1
                watch.ended(cell, errors[cell.key])
            else:
                watch.on_round(cell, event)
    finally:
        with uninterrupted():
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.close()
            threads.shutdown()


def _put(news: queue.SimpleQueue[tuple[Cell, Any]], cell: Cell, event: Any) -> None:
    """Queue an event of a cell: a line of ``rounds.jsonl``, or the future that has ended."""
    news.put((cell, event))
