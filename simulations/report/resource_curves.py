"""Compute the curves over time of a run's clients and resources.

The template ``templates/monitor.html.md`` draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hqde_fl.simulations.report.monitor_data import MonitorData
from hqde_fl.simulations.report.phase_drawings import axis_ticks

MAX_POINTS = 240
"""Points of a curve at most."""

MAX_LINES = 6
"""Nodes that have a line each in a chart; more of them are added up."""

PAUSE_SECONDS = 60.0
"""Times without samples that are longer are left out: the run was not going on."""

CHARTS = (
    ("CPU cores in use by the run", {"": "cpu"}, "mean"),
    ("Memory of the run, {unit}", {"": "memory"}, "max"),
    ("GPU utilisation", {"": "gpu"}, "mean"),
    ("GPU memory, {unit}", {"": "gpu-memory"}, "max"),
    ("Disk, {unit} a second", {"read": "read", "written": "written"}, "mean"),
    ("Network, {unit} a second", {"in": "received", "out": "sent"}, "mean"),
)
"""Titles, columns of samples by the names of their lines, and how values are put together."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340.0, 190.0, 34.0, 8.0, 8.0, 34.0
"""Size of a chart and of its margins, in the units of its view box."""

Line = tuple[NDArray[np.float64], NDArray[np.float64]]


class RunClock:
    """Converts times to the time since the start of the run, without its pauses."""

    def __init__(self, data: MonitorData) -> None:
        starts, seconds = data.rounds["start"], data.rounds["seconds"]
        ends = [data.begun, data.ended]
        times = np.concatenate([data.samples["time"], starts, starts + seconds, ends])
        times = np.unique(times.astype(float))
        steps = np.diff(times, prepend=times[0])
        usual = float(np.median(steps[1:])) if len(steps) > 1 else 0.0
        pauses = steps > max(PAUSE_SECONDS, 20 * usual)
        self.paused = bool(pauses.any())
        self._times, self._elapsed = times, np.cumsum(np.where(pauses, 0.0, steps))
        total = float(self._elapsed[-1])
        self.unit, name = (1.0, "seconds") if total < 180 else (60.0, "minutes")
        if total > 180 * 60:
            self.unit, name = 3600.0, "hours"
        self.label = f"{name} since the start"
        self.total = total / self.unit

    def __call__(self, times: Any) -> np.ndarray:
        """Return times since the start, in ``unit``."""
        elapsed = np.interp(np.asarray(times, float), self._times, self._elapsed)
        return np.asarray(elapsed / self.unit)


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Parameters
    ----------
    label : str
        Its name.
    path : str
        The data of an SVG path.
    """

    label: str
    path: str


@dataclass(frozen=True)
class CurveChart:
    """A chart of lines over time.

    Parameters
    ----------
    title : str
        The heading.
    curves : tuple[Curve, ...]
        The lines.
    xticks, yticks : tuple[tuple[float, str], ...]
        Places and labels.
    xlabel : str
        The name of the time.
    """

    title: str
    curves: tuple[Curve, ...]
    xticks: tuple[tuple[float, str], ...]
    yticks: tuple[tuple[float, str], ...]
    xlabel: str


def resource_curves(data: MonitorData, clock: RunClock) -> list[CurveChart]:
    """Return the charts over time: clients, CPU, memory, GPUs, disk and network."""
    charts = []
    flying = {
        "sent, no reply yet": _running(data.flying, clock),
        "training": _running(data.training, clock),
    }
    if any(len(times) for times, _ in flying.values()):
        charts.append(_chart("Clients in flight", flying, clock))
    samples = data.samples
    if not len(samples):
        return charts
    frame = samples.assign(at=clock(samples["time"]))
    if "gpus" in frame:
        frame = frame.assign(
            **{
                "gpu": over_gpus(frame, "utilisation", np.mean),
                "gpu-memory": over_gpus(frame, "memory", np.sum),
            }
        )
    for title, parts, how in CHARTS:
        if lines := _lines(frame, parts, how):
            charts.append(_chart(title, lines, clock))
    return charts


def _chart(title: str, lines: dict[str, Line], clock: RunClock) -> CurveChart:
    """Return a chart; a ``{unit}`` in its title stands for the unit of bytes that fits."""
    most = max((float(np.max(values)) for _, values in lines.values() if len(values)), default=0.0)
    unit, divisor = "", 1.0
    if "{unit}" in title:
        units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
        unit, divisor = next(((u, d) for u, d in units if most >= d), ("B", 1.0))
    xticks = [tick for tick in axis_ticks(clock.total) if tick <= clock.total]
    yticks = axis_ticks(most / divisor)
    across = (WIDTH - LEFT - RIGHT) / max(clock.total, 1e-9)
    up = (HEIGHT - TOP - BOTTOM) / yticks[-1]
    floor = HEIGHT - BOTTOM
    curves = [
        Curve(
            label,
            "M"
            + "L".join(
                f"{LEFT + across * x:.1f},{floor - up * y:.1f}"
                for x, y in zip(times, values / divisor, strict=True)
            ),
        )
        for label, (times, values) in lines.items()
        if len(times)
    ]
    return CurveChart(
        title=title.format(unit=unit),
        curves=tuple(curves),
        xticks=tuple((LEFT + across * tick, f"{tick:g}") for tick in xticks),
        yticks=tuple((floor - up * tick, f"{tick:g}") for tick in yticks),
        xlabel=clock.label,
    )


def _lines(frame: pd.DataFrame, parts: Mapping[str, str], how: str) -> dict[str, Line]:
    """Return a line for each node and part, or if there are many nodes, for all together."""
    hosts = list(frame["host"].unique())
    lines: dict[str, Line] = {}
    for part, column in parts.items():
        if column not in frame:
            continue
        own = frame[["at", "host", column]].dropna()
        binned = {host: _binned(group, column, how) for host, group in own.groupby("host")}
        if len(hosts) > MAX_LINES:
            grid = np.linspace(0, float(frame["at"].max()), MAX_POINTS)
            together = np.mean if column == "gpu" else np.sum
            values = [np.interp(grid, *line, left=0, right=0) for line in binned.values()]
            if values:
                label = f"{part or column}, {len(values)} nodes"
                lines[label] = grid, together(np.array(values), axis=0)
            continue
        for host in hosts:
            if host in binned:
                label = ", ".join(filter(None, (host if len(hosts) > 1 else "", part)))
                lines[label or column] = binned[host]
    return lines


def _binned(group: pd.DataFrame, column: str, how: str) -> Line:
    """Return a node's values at no more than ``MAX_POINTS`` times."""
    times, values = group["at"].to_numpy(), group[column].astype(float)
    if len(times) > MAX_POINTS:
        bins = (np.arange(len(times)) * MAX_POINTS) // len(times)
        return (
            group["at"].groupby(bins).mean().to_numpy(),
            values.groupby(bins).agg(how).to_numpy(),
        )
    return times, values.to_numpy()


def _running(events: tuple[np.ndarray, np.ndarray], clock: RunClock) -> Line:
    """Return the number of clients at no more than ``MAX_POINTS`` times, the most in each bin."""
    times, changes = events
    if not len(times):
        return np.empty(0), np.empty(0)
    at, level = clock(times), np.maximum(0, np.cumsum(changes))
    edges = np.linspace(0, max(clock.total, 1e-9), MAX_POINTS + 1)
    before = np.searchsorted(at, edges[:-1], side="left")  # the level that a bin begins with
    most = np.where(before > 0, level[before - 1], 0).astype(float)
    place = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, MAX_POINTS - 1)
    np.maximum.at(most, place, level)
    return (edges[:-1] + edges[1:]) / 2, most


def over_gpus(
    frame: pd.DataFrame, key: str, together: Callable[[Sequence[float]], Any]
) -> list[float | None]:
    """Return for each sample a value over its GPUs; None where it has none."""
    values: list[float | None] = []
    for gpus in frame["gpus"]:
        has = gpus is not None and not isinstance(gpus, float)
        known = [gpu[key] for gpu in gpus if gpu.get(key) is not None] if has else []
        values.append(float(together(known)) if known else None)
    return values
