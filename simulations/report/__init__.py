"""``report.html``: one file that needs nothing else, for a run or for the runs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqde_fl.errors import RunError
from simulations.comparison import Comparison, Row, fixed, signed
from simulations.document import to_toml
from simulations.labels import component_label, faults_label
from simulations.report.figures import COLOURS, Series, bars, curves
from simulations.report.grid import Grid, grid
from simulations.report.page import PAGE
from simulations.results import REPORT, Run

MAX_SQUARES = 30_000
"""Clients times rounds that one page draws: browsers take more, readers do not."""


@dataclass(frozen=True)
class Panel:
    """A chart.

    Parameters
    ----------
    title : str
        Its heading.
    svg : str
        The drawing.
    legend : tuple[str, ...]
        Names of its lines, in the order of the page's colours; empty where the page has them.
    """

    title: str
    svg: str
    legend: tuple[str, ...] = ()


def write_report(comparison: Comparison, out: Path) -> Path:
    """Draw the report of a sweep or of one run.

    Parameters
    ----------
    comparison : Comparison
        What is shown.
    out : Path
        The directory that ``report.html`` is written to.

    Returns
    -------
    Path
        The file.
    """
    path = out / REPORT
    path.write_text(render(comparison), encoding="utf-8")
    return path


def render(comparison: Comparison) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined

    began = [row for row in comparison.rows if row.run is not None]
    if not began:
        reason = next((row.error for row in comparison.rows if row.error), "none began")
        raise RunError(f"there is no run to report: {reason}")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"fixed": fixed, "signed": signed, "toml": to_toml}
    environment.globals |= {
        "component_label": component_label,
        "faults_label": faults_label,
    }
    first = began[0].run
    assert first is not None
    several = len(comparison.rows) > 1
    return environment.from_string(PAGE).render(
        comparison=comparison,
        several=several,
        run=first,
        manifest=first.manifest,
        experiment=first.manifest["experiment"],
        panels=_compared(comparison) if several else _single(first),
        legend=comparison.lines if several else (),
        colours=COLOURS,
        grids=_grids(began),
        has_faults={
            column: any(g.faulty for g in comparison.groups if g.labels[1:] == column)
            for column in comparison.columns
        },
    )


def _grids(rows: list[Row]) -> list[tuple[Row, Grid | None]]:
    """A grid for each run, as long as the page has room."""
    found, squares, room = [], 0, 640 if len(rows) == 1 else 270
    for row in rows:
        assert row.run is not None
        squares += len(row.run.clients)
        found.append((row, grid(row.run, room) if squares <= MAX_SQUARES else None))
    return found


def _single(run: Run) -> list[Panel]:
    """The charts of one run."""
    trained = [line for line in run.rounds if line["round"] > 0]
    names = list(dict.fromkeys(name for line in run.rounds for name in line["server"]))
    panels = []
    for name in sorted(names, key=lambda name: (name != "accuracy", name)):
        limits = (0.0, 1.0) if name == "accuracy" else None
        svg = curves({name: _points(run, name)}, f"{name} on the server's test set", limits=limits)
        panels.append(Panel(f"{name.capitalize()} on the test set", svg))
    for name in ("train-loss", "eval-accuracy"):
        key = "clients-train" if name.startswith("train") else "clients-evaluate"
        points = [(line["round"], line[key].get(name)) for line in trained]
        if any(value is not None for _, value in points):
            panels.append(Panel(f"Mean {name} of the clients", curves({name: points}, name)))
    traffic: Series = {
        "to the clients": [(line["round"], line["bytes-down"] / 1e6) for line in trained],
        "from the clients": [(line["round"], line["bytes-up"] / 1e6) for line in trained],
    }
    if trained:
        panels.append(Panel("Traffic, MB a round", bars(traffic, "traffic"), tuple(traffic)))
        seconds: Series = {"seconds": [(line["round"], line["seconds"]) for line in trained]}
        panels.append(Panel("Seconds a round", bars(seconds, "seconds a round")))
    return panels


def _compared(comparison: Comparison) -> list[Panel]:
    """Accuracy and loss of the runs of every column of the table, one line for each of its rows."""
    panels = []
    for name, limits in (("accuracy", (0.0, 1.0)), ("loss", None)):
        for column in comparison.columns:
            groups = [g for g in comparison.groups if g.labels[1:] == column and g.runs]
            series = {g.labels[0]: _points(g.runs[0], name) for g in groups}
            values = [y for points in series.values() for _, y in points if y is not None]
            if not values:
                continue
            title = f"{name.capitalize()}: {', '.join(column) or 'all runs'}"
            log = limits is None and min(values) > 0 and max(values) > 20 * min(values)
            svg = curves(series, title, limits=limits, log=log, fixed=comparison.lines)
            panels.append(Panel(title + (" (logarithmic)" if log else ""), svg))
    return panels


def _points(run: Run, name: str) -> list[tuple[int, float | None]]:
    return [(line["round"], _metric(line, name)) for line in run.rounds]


def _metric(line: Mapping[str, Any], name: str) -> float | None:
    value = line["server"].get(name)
    return None if value is None else float(value)
