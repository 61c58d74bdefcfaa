"""Carrying a sweep out: cells one after the other in this process, or several at once in others.

Every cell is an ordinary run in a directory that is named after its key; a cell that is there and
finished is not run again. One that fails is a row with its error, and the sweep goes on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.interruption import interruptible, uninterrupted
from hqde_fl.simulations.experiment.model import Experiment
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.directory_lock import directory_lock
from hqde_fl.simulations.recording.file_names import INDEX
from hqde_fl.simulations.recording.manifest import record_end
from hqde_fl.simulations.run import require_empty
from hqde_fl.simulations.sweep.cell_run import carry_out, is_finished
from hqde_fl.simulations.sweep.cells import CELLS, Cell, Sweep
from hqde_fl.simulations.sweep.tables import write_tables
from hqde_fl.simulations.sweep.worker import Worker

LOCK_SECONDS = 10.0
"""Seconds within which the worker processes of a sweep that was killed must have ended."""

POLL_SECONDS = 0.1


class Watch:
    """Hears of what happens in a sweep; override what you need."""

    def planned(self, cells: Sequence[Cell], finished: int) -> None:
        """These cells are going to run; so many have finished before."""

    def began(self, cell: Cell) -> None:
        """A cell begins."""

    def on_round(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """A round of a cell is over: its line of ``rounds.jsonl``."""

    def ended(self, cell: Cell, error: str | None) -> None:
        """A cell is over."""


def run_sweep(
    sweep: Sweep,
    out: Path,
    *,
    jobs: int = 1,
    resume: bool = False,
    watch: Watch | None = None,
    report: bool = True,
) -> Comparison:
    """Run the cells of a sweep.

    Ctrl-C, SIGTERM and SIGHUP end it as they end ``run_experiment``.

    Parameters
    ----------
    sweep : Sweep
        What to run.
    out : Path
        New or empty, or the directory of a sweep to resume. Gets a run directory for each cell,
        ``sweep.json``, ``results.csv``, ``results.parquet``, ``timings.csv`` and ``report.html``.
    jobs : int, default=1
        Cells that run at once, each in a process of its own if > 1.
    resume : bool, default=False
        Go on with what is in ``out``: finished cells are kept, all others run from their beginning.
    watch : Watch, optional
        Told what happens.
    report : bool, default=True
        Whether to draw the report and its figures.

    Raises
    ------
    ConfigError
        If ``out`` cannot be used, data is missing, a fault of a cell cannot act on its task, or
        the engine does not run several cells at once. Nothing has been run then.
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
        return Comparison.read(out, sweep.name, sweep.axes, cells)

    busy = ConfigError(f"another sweep is running in {out}")
    with directory_lock(out, busy, LOCK_SECONDS) as lock, interruptible():
        state().save(out)  # so that a sweep that is killed can be told, and shown
        missing = [c for c in sweep.distinct if not is_finished(out / c.directory, c.experiment)]
        watch.planned(missing, len(sweep.distinct) - len(missing))
        try:
            if jobs == 1:
                _run_here(missing, out, watch, errors)
            else:
                _run_in_processes(missing, out, min(jobs, len(missing)), lock, watch, errors)
        finally:  # what there is, if the sweep is interrupted
            with uninterrupted():
                for cell in missing:  # a process that was ended could not say so
                    error = errors.get(cell.key)
                    record_end(out / cell.directory, "failed" if error else "interrupted", error)
                comparison = state()
                comparison.save(out)
                write_tables(comparison, out)
        if report:
            from hqde_fl.simulations.report import write_report

            write_report(comparison, out)
    return comparison


def check_tasks(sweep: Sweep) -> None:
    """Raise ``ConfigError`` if data is missing, or a fault of a cell cannot act on its task.

    Each task is loaded once, each combination of a task and faults checked once.
    """
    cells: dict[str, dict[str, Experiment]] = {}
    for cell in sweep.cells:
        experiment = cell.experiment
        cells.setdefault(repr(experiment.task), {})[repr(experiment.faults)] = experiment
    for experiments in cells.values():
        first, *others = experiments.values()
        task = first.checked_task()
        for experiment in others:
            experiment.parts.faults.check_task(task)


def check_jobs(sweep: Sweep, jobs: int) -> None:
    """Raise ``ConfigError`` unless so many cells can run at once."""
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
    for cell in cells:
        watch.began(cell)
        listen = partial(watch.on_round, cell)
        errors[cell.key] = carry_out(cell.experiment, out / cell.directory, listen)
        watch.ended(cell, errors[cell.key])


def _run_in_processes(
    cells: Sequence[Cell],
    out: Path,
    jobs: int,
    lock: int,
    watch: Watch,
    errors: dict[str, str | None],
) -> None:
    """A thread for each process; all news pass through this one."""
    waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    news: queue.SimpleQueue[tuple[Cell, Mapping[str, Any] | BaseException | None]]
    news = queue.SimpleQueue()
    workers: dict[int, Worker] = {}
    over = threading.Event()
    for cell in cells:
        waiting.put(cell)

    def work(place: int) -> None:
        cell = cells[0]
        try:
            while not over.is_set():
                try:
                    cell = waiting.get_nowait()
                except queue.Empty:
                    return
                news.put((cell, None))
                if place not in workers or not workers[place].alive:
                    workers[place] = Worker(out / f"worker-{place}.log", lock)
                for line in workers[place].run(cell.experiment, out / cell.directory):
                    news.put((cell, line))
        except BaseException as error:
            news.put((cell, error))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(jobs)]
    for thread in threads:
        thread.start()
    left = len(cells)
    try:
        while left:
            cell, line = news.get()
            if line is None:
                watch.began(cell)
            elif isinstance(line, BaseException):
                raise line
            elif "error" in line:
                errors[cell.key] = line["error"]
                left -= 1
                watch.ended(cell, line["error"])
            else:
                watch.on_round(cell, line)
    finally:
        with uninterrupted():
            over.set()
            for thread in threads:
                while thread.is_alive():  # it may be about to start one more
                    for worker in list(workers.values()):
                        worker.close()
                    thread.join(POLL_SECONDS)
