"""Show on the page of a run with edges the bytes of each link level, and their use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.report.charts import shared_limits, time_chart
from hqde_fl.simulations.report.run_view import Panel


@dataclass(frozen=True)
class LinkLevel:
    """The bytes that went over one level of links.

    Parameters
    ----------
    name : str
        The ends of the links.
    down, down_last : int
        Towards the clients, in all rounds of the server and in the last.
    up, up_last : int
        Towards the server, in all rounds and in the last.
    """

    name: str
    down: int
    down_last: int
    up: int
    up_last: int


LEVELS = {"edge-cloud": "server and edges", "client-edge": "edges and clients"}
"""Key in a round's ``edges`` -> the ends of the links."""


def link_levels(run: Run) -> list[LinkLevel]:
    """Return the bytes of each level of links in a run; empty without edges."""
    rounds = [line["edges"] for line in run.rounds if line["round"] > 0 and "edges" in line]
    if not rounds:
        return []
    return [
        LinkLevel(
            name,
            sum(levels[key]["bytes-down"] for levels in rounds),
            rounds[-1][key]["bytes-down"],
            sum(levels[key]["bytes-up"] for levels in rounds),
            rounds[-1][key]["bytes-up"],
        )
        for key, name in LEVELS.items()
    ]


def edge_panels(run: Run) -> list[Panel]:
    """Return a chart of the primary metric over the bytes to and from the edges, if there are any.

    Rounds without the metric are left out.
    """
    name, total = run.objective.primary, 0.0
    points = []
    for line in run.rounds:
        total += (line["bytes-down"] + line["bytes-up"]) / 1e6
        if (value := line["server"].get(name)) is not None:
            points.append((total, float(value)))
    if not link_levels(run) or len(points) < 2:
        return []
    sizes, values = np.array(points).T
    svg = time_chart(
        {name: (sizes, values)},
        f"{name} by the megabytes between server and edges",
        "MB between server and edges",
        limits=shared_limits(values.tolist()),
    )
    return [Panel(f"{name.capitalize()} by traffic of the edges", svg)]
