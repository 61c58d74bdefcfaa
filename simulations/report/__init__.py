"""Write ``report.html``: one page about a run or a sweep that loads nothing from elsewhere.

The ServerApp draws the report wherever it runs, also on a host that holds nothing of this project
but the Flower App Bundle. So the templates are files of a kind that a bundle carries. It carries no
``.html`` and no ``.css``, but Markdown, of which HTML is a part: ``run.html.md``, ``style.css.md``.
"""

from __future__ import annotations

import functools
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from hqde_fl.errors import RunError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.experiment.display_names import component_label, faults_label
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.choice import chosen_only
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.file_names import REPORT
from hqde_fl.simulations.recording.seed_groups import ComparisonRow
from hqde_fl.simulations.report.charts import PAGE_COLOURS
from hqde_fl.simulations.report.choice_view import choice_table, write_choices
from hqde_fl.simulations.report.edges_view import edge_panels, link_levels
from hqde_fl.simulations.report.heat_colours import cell_colours
from hqde_fl.simulations.report.monitor_view import monitor_view
from hqde_fl.simulations.report.number_text import (
    byte_text,
    client_list_text,
    deviation_text,
    fixed,
    interval_text,
    metric_text,
    p_text,
    second_text,
    signed,
)
from hqde_fl.simulations.report.outcome_grid import OutcomeGrid, outcome_grid
from hqde_fl.simulations.report.phase_drawings import phase_colour
from hqde_fl.simulations.report.pool_view import pool_view
from hqde_fl.simulations.report.run_view import carried_bytes, run_panels, tile_metrics
from hqde_fl.simulations.report.sites_view import MAX_SITES, site_rows, turnarounds
from hqde_fl.simulations.report.sweep_view import sweep_view
from hqde_fl.simulations.report.tree_view import tree_view

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_GRID_CELLS = 30_000
"""Clients times rounds that one page draws: browsers can show more, readers cannot read more."""

RUN_GRID_WIDTH, SWEEP_GRID_WIDTH = 640, 270
"""Width for the rounds in an outcome grid, in pixels."""


def write_report(comparison: Comparison, out: Path) -> Path:
    """Write the report of a run, or the report, the figures and the tables of a sweep.

    Parameters
    ----------
    comparison : Comparison
        The run or the runs of the sweep.
    out : Path
        The directory that ``report.html`` and, for a sweep, ``figures/``, ``results.tex``,
        ``results.md`` and ``statistics.csv`` are written to; ``choices.csv``, ``.md`` and ``.tex``,
        if hyperparameters are chosen.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ConfigError
        If the sweep is to be compared by a metric that no run has measured.
    RunError
        If no run has begun.
    """
    comparison.check_metric()
    path = out / REPORT
    replace_file(path, render(comparison).encode())
    if comparison.axes:
        write_choices(comparison, out)
        comparison = chosen_only(comparison)
        from hqde_fl.simulations.report.paper_figures import write_figures
        from hqde_fl.simulations.report.paper_tables import write_paper_tables

        write_figures(comparison, out)
        write_paper_tables(comparison, out)
    return path


def report_or_warn(comparison: Comparison, out: Path) -> None:
    """Write the report as ``write_report`` does; if its files cannot be written, only warn.

    What it shows is on record, and ``hqde-fl report`` draws it again.
    """
    try:
        write_report(comparison, out)
    except (OSError, RunError) as error:
        again = f"`hqde-fl report {out}` draws it"
        log(WARNING, "no report, but all results are on record (%s): %s", error, again)


def render(comparison: Comparison) -> str:
    """Return the HTML page of a run or a sweep; raise ``RunError`` if no run has begun.

    If the sweep chooses hyperparameters, it shows the chosen runs only, once there are any.
    """
    choice, comparison = choice_table(comparison), chosen_only(comparison)
    begun = [row for row in comparison.rows if row.run is not None]
    if not begun:
        reason = next((row.error for row in comparison.rows if row.error), "none began")
        raise RunError(f"there is no run to report: {reason}")
    first = begun[0].run
    assert first is not None
    shared = {
        "comparison": comparison,
        "experiment": first.manifest["experiment"],
        "manifest": first.manifest,
    }
    if not comparison.axes:
        grids = _grids(begun, RUN_GRID_WIDTH)
        page = page_environment().get_template("run.html.md")
        return page.render(
            shared,
            run=first,
            tiles=tile_metrics(first),
            sites=site_rows(first),
            max_sites=MAX_SITES,
            turnarounds=turnarounds(first),
            panels=[*run_panels(first), *edge_panels(first)],
            levels=link_levels(first),
            tree=tree_view(first),
            pool=pool_view(first),
            carried=carried_bytes(first),
            grids=grids,
            monitor=monitor_view(first.path),
        )
    view = sweep_view(comparison)
    grids = _grids(view["shown"], SWEEP_GRID_WIDTH)
    return (
        page_environment()
        .get_template("sweep.html.md")
        .render(shared, **view, grids=grids, choice=choice)
    )


@functools.cache  # compiling the templates takes longer than filling them
def page_environment() -> Environment:
    """Return the templates of all pages, with the filters and functions that they use."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__name__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "byte_text": byte_text,
        "client_list": client_list_text,
        "duration": second_text,
        "fixed": fixed,
        "interval": interval_text,
        "metric": metric_text,
        "deviation": deviation_text,
        "p_value": p_text,
        "signed": signed,
        "toml": tomli_w.dumps,
    }
    environment.globals |= {
        "cell_colours": cell_colours,
        "component_label": component_label,
        "faults_label": faults_label,
        "page_colours": PAGE_COLOURS,
        "phase_colour": phase_colour,
    }
    return environment


def _grids(rows: list[ComparisonRow], room: int) -> list[tuple[ComparisonRow, OutcomeGrid | None]]:
    """Return each row with its run's outcome grid, ``room`` pixels wide for the rounds.

    The grid is None if no client took part, or once all cells exceed ``MAX_GRID_CELLS``.
    """
    grids, cells = [], 0
    for row in rows:
        assert row.run is not None
        cells += len(row.run.clients)
        grids.append((row, outcome_grid(row.run, room) if cells <= MAX_GRID_CELLS else None))
    return grids
