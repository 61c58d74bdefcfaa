"""Draw the charts that the page of one run shows, and count what its messages carried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hqde_fl.protocol.message_size import ROLES_AND_OTHER
from hqde_fl.simulations.recording.recorded_run import NO_METRICS, Run
from hqde_fl.simulations.report.charts import (
    Series,
    bar_chart,
    line_chart,
    shared_limits,
    time_chart,
)


@dataclass(frozen=True)
class Panel:
    """A chart with its heading and legend.

    Parameters
    ----------
    title : str
        The heading.
    svg : str
        The chart, an SVG element.
    legend : tuple[str, ...], default=()
        Names of its lines, in the order of the page's colours; empty if it needs no legend.
    """

    title: str
    svg: str
    legend: tuple[str, ...] = ()


@dataclass(frozen=True)
class CarriedBytes:
    """Bytes of messages that carried one kind of content.

    Parameters
    ----------
    content : str
        A role of the model's entries, or ``other``.
    down, down_last : int
        To the clients, in all rounds and in the last.
    up, up_last : int
        From the clients, in all rounds and in the last.
    """

    content: str
    down: int
    down_last: int
    up: int
    up_last: int


def carried_bytes(run: Run) -> list[CarriedBytes]:
    """Return what a run's messages carried, by content; empty where it was not recorded."""
    rounds = [line for line in run.rounds if line.get("bytes-down-by-role")]
    table = []
    for content in ROLES_AND_OTHER:
        down = [line["bytes-down-by-role"].get(content, 0) for line in rounds]
        up = [line["bytes-up-by-role"].get(content, 0) for line in rounds]
        if any(down) or any(up):
            table.append(CarriedBytes(content, sum(down), down[-1], sum(up), up[-1]))
    return table


def run_panels(run: Run) -> list[Panel]:
    """Return charts of a run's metrics, traffic and time over the rounds, as far as recorded."""
    trained = [line for line in run.rounds if line["round"] > 0]
    names = list(dict.fromkeys(name for line in run.rounds for name in line["server"]))
    panels = []
    for name in sorted(names, key=lambda name: (name != run.objective.primary, name)):
        points = _points(run, name)
        known = [value for _, value in points if value is not None]
        svg = line_chart(
            {name: points}, f"{name} on the server's test set", limits=shared_limits(known)
        )
        panels.append(Panel(f"{name.capitalize()} on the test set", svg))
    if run.virtual_time:
        panels.append(_virtual_time_panel(run))
    if run.epsilon is not None:
        spent = [(line["round"], line.get("epsilon") or 0.0) for line in run.rounds]
        title = "Epsilon spent, all rounds together"
        panels.append(Panel(title, line_chart({"epsilon": spent}, title)))
    for name, values in _client_metrics(trained).items():
        panels.append(Panel(f"Mean {name} of the clients", line_chart({name: values}, name)))
    others = "edges" if any("edges" in line for line in trained) else "clients"
    traffic: Series = {
        f"to the {others}": [(line["round"], line["bytes-down"] / 1e6) for line in trained],
        f"from the {others}": [(line["round"], line["bytes-up"] / 1e6) for line in trained],
    }
    if trained:
        panels.append(Panel("Traffic, MB a round", bar_chart(traffic, "traffic"), tuple(traffic)))
        seconds: Series = {"seconds": [(line["round"], line["seconds"]) for line in trained]}
        panels.append(Panel("Seconds a round", bar_chart(seconds, "seconds a round")))
    return panels


def _virtual_time_panel(run: Run) -> Panel:
    """Return a chart of the primary metric against virtual time, which the run must have."""
    name = run.objective.primary
    times = np.array([line["virtual-time"] or 0.0 for line in run.rounds])
    points = [value for _, value in _points(run, name)]
    values = np.array([np.nan if value is None else value for value in points])
    known = [value for value in points if value is not None]
    title = f"{name.capitalize()} against virtual time"
    limits = shared_limits(known)
    return Panel(
        title, time_chart({name: (times, values)}, title, "virtual seconds", limits=limits)
    )


def _client_metrics(
    lines: Sequence[Mapping[str, Any]],
) -> dict[str, list[tuple[int, float | None]]]:
    """Return the clients' metrics but times over the rounds, those with at least one value."""
    points: dict[str, list[tuple[int, float | None]]] = {}
    for key in ("clients-train", "clients-evaluate"):
        names = dict.fromkeys(name for line in lines for name in line[key])
        for name in sorted(names):
            values = [(line["round"], line[key].get(name)) for line in lines]
            if not name.endswith("seconds") and any(value is not None for _, value in values):
                points[name] = values
    return points


def tile_metrics(run: Run) -> list[tuple[str, float | None]]:
    """Return the text and the value of each final metric that tiles show.

    They are the server's primary metric and loss, or without a test set the clients' means of
    these, or a text that says that there is none.
    """
    names = dict.fromkeys((run.objective.primary, "loss"))
    if run.final or not run.rounds:
        return [_tile(f"final {name}", run.final.get(name)) for name in names]
    means = run.clients_final
    own = [f"{kind}-{name}" for kind in ("eval", "train") for name in names]
    shown = [
        _tile(f"final {name}, mean of the clients", means[name]) for name in own if name in means
    ]
    return shown or [(f"no final metrics: {NO_METRICS}", None)]


def _tile(text: str, value: float | None) -> tuple[str, float | None]:
    return text + ": not finite" * (value is None), value


def _points(run: Run, name: str) -> list[tuple[int, float | None]]:
    return [(line["round"], _metric(line, name)) for line in run.rounds]


def _metric(line: Mapping[str, Any], name: str) -> float | None:
    value = line["server"].get(name)
    return None if value is None else float(value)
