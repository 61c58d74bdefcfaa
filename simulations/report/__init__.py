"""``report.html``: one file that needs nothing else, for a run or for the runs of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from hqde_fl.errors import RunError
from hqde_fl.simulations.experiment.labels import component_label, faults_label
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.comparison import Comparison, Row, fixed, signed
from hqde_fl.simulations.recording.file_names import REPORT
from hqde_fl.simulations.report.figures import COLOURS
from hqde_fl.simulations.report.grid import Grid, grid
from hqde_fl.simulations.report.run_view import run_panels
from hqde_fl.simulations.report.sweep_view import NARROW, sweep_view

MAX_SQUARES = 30_000
"""Clients times rounds that one page draws: browsers take more, readers do not."""


def write_report(comparison: Comparison, out: Path) -> Path:
    """Draw the report of a sweep, and its figures, or the report of one run.

    Parameters
    ----------
    comparison : Comparison
        What is shown.
    out : Path
        The directory that ``report.html`` and, for a sweep, ``figures/`` are written to.

    Returns
    -------
    Path
        The page.
    """
    path = out / REPORT
    replace_file(path, render(comparison).encode())
    if comparison.axes:
        from hqde_fl.simulations.report.paper import write_figures

        write_figures(comparison, out)
    return path


def render(comparison: Comparison) -> str:
    """The page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    began = [row for row in comparison.rows if row.run is not None]
    if not began:
        reason = next((row.error for row in comparison.rows if row.error), "none began")
        raise RunError(f"there is no run to report: {reason}")
    environment = Environment(
        loader=PackageLoader(__name__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": fixed, "signed": signed, "toml": tomli_w.dumps}
    first = began[0].run
    assert first is not None
    environment.globals |= {
        "colours": COLOURS,
        "comparison": comparison,
        "component_label": component_label,
        "experiment": first.manifest["experiment"],
        "faults_label": faults_label,
        "manifest": first.manifest,
        "narrow": NARROW,
    }
    if not comparison.axes:
        return environment.get_template("run.html.md").render(
            run=first, panels=run_panels(first), grids=_grids(began, 640)
        )
    view: dict[str, Any] = sweep_view(comparison)
    environment.globals["shade"] = view["shade"]
    return environment.get_template("sweep.html.md").render(grids=_grids(view.pop("shown"), 270), **view)


def _grids(rows: list[Row], room: int) -> list[tuple[Row, Grid | None]]:
    """A grid for each run, as long as the page has room."""
    found, squares = [], 0
    for row in rows:
        assert row.run is not None
        squares += len(row.run.clients)
        found.append((row, grid(row.run, room) if squares <= MAX_SQUARES else None))
    return found
