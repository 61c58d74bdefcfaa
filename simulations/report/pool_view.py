"""Sum up the tasks that Ray ran for a run, by kind and by host."""

from __future__ import annotations

from dataclasses import dataclass

from hqde_fl.simulations.recording.file_names import POOL
from hqde_fl.simulations.recording.recorded_run import Run, read_lines

COUNTS = ("tasks", "seconds", "bytes", "reruns")
"""What is counted of tasks."""


@dataclass(frozen=True)
class PoolView:
    """Counts of the tasks of a run.

    Parameters
    ----------
    kinds : dict[str, dict[str, float]]
        Kind of task -> its counts on all hosts.
    hosts : dict[int, dict[str, float]]
        Host -> its counts of all kinds.
    """

    kinds: dict[str, dict[str, float]]
    hosts: dict[int, dict[str, float]]


def pool_view(run: Run) -> PoolView | None:
    """Return what the pool did in a run; None if nothing ran on Ray."""
    view = PoolView({}, {})
    for line in read_lines(run.path / POOL):
        rows = (
            view.kinds.setdefault(line["kind"], dict.fromkeys(COUNTS, 0)),
            view.hosts.setdefault(line["host"], dict.fromkeys(COUNTS, 0)),
        )
        for row in rows:
            for name in COUNTS:
                row[name] += line[name]
    return view if view.kinds else None
