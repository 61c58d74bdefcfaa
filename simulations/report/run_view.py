"""Draw the charts that the page of one run shows, and count what its messages carried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hqde_fl.protocol.message_size import ROLES_AND_OTHER
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.report.charts import Series, bar_chart, line_chart


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
    for name in sorted(names, key=lambda name: (name != "accuracy", name)):
        limits = (0.0, 1.0) if name == "accuracy" else None
        svg = line_chart(
            {name: _points(run, name)}, f"{name} on the server's test set", limits=limits
        )
        panels.append(Panel(f"{name.capitalize()} on the test set", svg))
    for name in ("train-loss", "eval-accuracy"):
        key = "clients-train" if name.startswith("train") else "clients-evaluate"
        points = [(line["round"], line[key].get(name)) for line in trained]
        if any(value is not None for _, value in points):
            panels.append(Panel(f"Mean {name} of the clients", line_chart({name: points}, name)))
    traffic: Series = {
        "to the clients": [(line["round"], line["bytes-down"] / 1e6) for line in trained],
        "from the clients": [(line["round"], line["bytes-up"] / 1e6) for line in trained],
    }
    if trained:
        panels.append(Panel("Traffic, MB a round", bar_chart(traffic, "traffic"), tuple(traffic)))
        seconds: Series = {"seconds": [(line["round"], line["seconds"]) for line in trained]}
        panels.append(Panel("Seconds a round", bar_chart(seconds, "seconds a round")))
    return panels


def _points(run: Run, name: str) -> list[tuple[int, float | None]]:
    return [(line["round"], _metric(line, name)) for line in run.rounds]


def _metric(line: Mapping[str, Any], name: str) -> float | None:
    value = line["server"].get(name)
    return None if value is None else float(value)
