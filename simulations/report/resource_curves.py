"""Draw the curves over time of a run's clients and resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hqde_fl.simulations.report.charts import time_chart
from hqde_fl.simulations.report.monitor_data import MonitorData
from hqde_fl.simulations.report.run_view import Panel

MAX_POINTS = 240
"""Points of a curve at most."""

MAX_LINES = 6
"""Nodes that have a line each in a chart; more of them are added up."""

PAUSE_SECONDS = 60.0
"""Times without samples that are longer are left out: the run was not going on."""

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


def resource_curves(data: MonitorData, clock: RunClock) -> list[Panel]:
    """Return the charts over time: clients, CPU, memory, GPUs, disk and network."""
    panels = []
    flying = {
        "sent, no reply yet": _running(data.flying, clock),
        "training": _running(data.training, clock),
    }
    if any(len(times) for times, _ in flying.values()):
        panels.append(_panel("Clients in flight", flying, clock))
    samples = data.samples
    if not len(samples):
        return panels
    frame = samples.assign(at=clock(samples["time"]))
    if "gpus" in frame:
        frame = frame.assign(**{"gpu": over_gpus(frame, "utilisation", np.mean)})
        frame = frame.assign(**{"gpu-memory": over_gpus(frame, "memory", np.sum)})
    for title, parts, how in (
        ("CPU cores in use by the run", {"": "cpu"}, "mean"),
        ("Memory of the run", {"": "memory"}, "max"),
        ("GPU utilisation", {"": "gpu"}, "mean"),
        ("GPU memory", {"": "gpu-memory"}, "max"),
        ("Disk, a second", {"read": "read", "written": "written"}, "mean"),
        ("Network, a second", {"in": "received", "out": "sent"}, "mean"),
    ):
        lines = _lines(frame, parts, how)
        if lines:
            panels.append(_panel(title, lines, clock, scaled=title not in _UNSCALED))
    return panels


_UNSCALED = ("CPU cores in use by the run", "GPU utilisation")


def _panel(title: str, lines: dict[str, Line], clock: RunClock, *, scaled: bool = False) -> Panel:
    unit, divisor = "", 1.0
    if scaled:
        most = max((float(np.nanmax(values)) for _, values in lines.values()), default=0.0)
        units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
        unit, divisor = next(((u, d) for u, d in units if most >= d), ("B", 1.0))
        unit = f", {unit}"
    svg = time_chart(
        {label: (times, values / divisor) for label, (times, values) in lines.items()},
        f"{title}{unit}, over time",
        clock.label,
    )
    heading = title.replace(", a second", f"{unit} a second") if unit else title
    heading = heading if ", a second" in title else f"{title}{unit}"
    return Panel(heading, svg, tuple(lines) if len(lines) > 1 else ())


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
