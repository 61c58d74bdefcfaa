"""Carry out ``hqde-fl sweep``: run a sweep, or show its plan."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.durations import duration_text
from hqde_fl.simulations.experiment.warnings import warnings_of
from hqde_fl.simulations.recording.choice import chosen_only
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.file_names import INDEX, REPORT
from hqde_fl.simulations.sweep.cell_run import is_finished
from hqde_fl.simulations.sweep.cells import Cell, Sweep
from hqde_fl.simulations.sweep.estimate import from_finished, from_probes
from hqde_fl.simulations.sweep.runner import check_jobs, check_tasks, run_sweep

RUNS = Path("runs")


def newest_directory(name: str) -> Path:
    """Return ``runs/NAME-TIME`` of the newest sweep of a name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if (directory := _newest(name)) is None:
        raise ConfigError(f"there is no sweep to resume in {RUNS}/{name}-TIME: name it with --out")
    return directory


def _newest(name: str) -> Path | None:
    form = re.compile(rf"{re.escape(name)}-\d{{8}}-\d{{6}}")  # not NAME-OTHER-TIME
    found = (path.parent for path in RUNS.glob(f"*/{INDEX}") if form.fullmatch(path.parent.name))
    return max(found, default=None)


def run_and_show(
    sweep: Sweep, out: Path, console: Console, *, jobs: int = 1, resume: bool = False
) -> Comparison:
    """Run a sweep into ``out``, show its progress, results and errors, and return the results."""
    # both draw with the report's modules, which are slow to import, and a dry run needs neither
    from hqde_fl.simulations.console.results_table import results_table
    from hqde_fl.simulations.sweep.progress import SweepProgress

    with SweepProgress(console, sweep) as watch:
        comparison = run_sweep(sweep, out, jobs=jobs, resume=resume, watch=watch)
    console.print(results_table(chosen_only(comparison), console.width))
    failed = [row for row in comparison.rows if row.error]
    for row in failed:
        _say(console, f"failed: {', '.join(row.labels)}: {row.error}")
    if failed:
        _say(console, f"{len(failed)} of {len(comparison.rows)} cells failed")
    if (out / REPORT).exists():
        _say(console, f"report: {_shown(out / REPORT)}")
    return comparison


def show_plan(
    sweep: Sweep,
    console: Console,
    out: Path | None,
    *,
    jobs: int = 1,
    resume: bool = False,
    probe: bool = False,
) -> None:
    """Show the cells of a sweep and an estimate of their time; nothing is kept on disk.

    The estimate is from the times of cells that have finished in ``out``, by default the newest
    directory of the sweep's name. If there are none, the time is unknown, unless ``probe`` has a
    few rounds of some cells timed.

    With ``resume``, cells that have finished there are shown as finished.
    """
    check_jobs(sweep, jobs)
    check_tasks(sweep)
    if resume and out is None:
        out = newest_directory(sweep.name)
    earlier = out or _newest(sweep.name)
    finished = {
        cell.key: cell
        for cell in sweep.distinct
        if earlier is not None and is_finished(earlier / cell.directory, cell.experiment)
    }
    first: dict[str, Cell] = {}
    missing = []
    for cell in sweep.cells:
        note = ""
        if cell.key in first:
            note = f"  same as {first[cell.key].label}"
        elif resume and cell.key in finished:
            note = "  finished"
        else:
            missing.append(cell)
        first.setdefault(cell.key, cell)
        _say(console, f"{cell.key}  {cell.label}{note}")
    text = f"{len(sweep.cells)} cells, {len(first)} of them different, {len(missing)} to run"
    if missing:
        estimate = from_probes(missing) if probe else None
        if not probe and earlier is not None:
            estimate = from_finished(list(finished.values()), missing, earlier)
        if estimate is not None:
            text += f"; about {duration_text(estimate.seconds / jobs)} with --jobs {jobs}"
            source = estimate.source if probe else f"{estimate.source} in {earlier}"
            text += f" on as many free cores ({source})"
        elif probe:
            text += "; their time cannot be estimated: cells fail"
        else:
            place = earlier or f"{RUNS}/{sweep.name}-TIME"
            text += f"; their time is unknown: no cell has finished in {place} (--probe times a "
            text += "few rounds)"
    _say(console, text)


def warnings_in(sweep: Sweep) -> list[str]:
    """Return the warnings of a sweep's cells, each of them once."""
    lines = (line for cell in sweep.cells for line in warnings_of(cell.experiment))
    return list(dict.fromkeys(lines))


def _shown(path: Path) -> str:
    """Return a path as text: relative if it is below the working directory, else absolute."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
