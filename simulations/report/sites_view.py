"""Compute what the page of a run shows of the sites that took part: their names and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hqde_fl.simulations.recording.recorded_run import Run

MAX_SITES = 50
"""Rows at most of the table of the sites."""


@dataclass(frozen=True)
class SiteRow:
    """A site in the table of those that took part: its name, its rounds and its times.

    Parameters
    ----------
    number : int
        Its partition id.
    name : str
        Its name.
    rounds, kept : int
        Rounds in which it was asked to train, and in which its update was kept.
    train, turnaround : float or None
        Mean seconds of its training, as it reports them, and from the message to its reply; None
        without any.
    """

    number: int
    name: str
    rounds: int
    kept: int
    train: float | None
    turnaround: float | None


def site_rows(run: Run) -> list[SiteRow]:
    """Return the named nodes that were asked to train, in the order of their numbers."""
    return [
        SiteRow(
            number,
            run.sites[number],
            len(own),
            sum(bool(client["kept"]) for client in own),
            _mean(own, "seconds"),
            _mean(own, "turnaround-seconds"),
        )
        for number, own in sorted(_by_partition(run).items())
        if number in run.sites
    ]


def turnarounds(run: Run) -> dict[int, float]:
    """Return partition id -> mean seconds from the message to the reply, where it is known."""
    means = {n: _mean(own, "turnaround-seconds") for n, own in _by_partition(run).items()}
    return {number: mean for number, mean in means.items() if mean is not None}


def _by_partition(run: Run) -> dict[int, list[Mapping[str, Any]]]:
    """Return partition id -> its lines of ``clients.jsonl``, of partitions that are known."""
    lines: dict[int, list[Mapping[str, Any]]] = {}
    for client in run.clients:
        if client["partition"] is not None:
            lines.setdefault(client["partition"], []).append(client)
    return lines


def _mean(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Return the mean of a key that may be missing or None, as in records of an older version."""
    values = [line[key] for line in lines if line.get(key) is not None]
    return fmean(values) if values else None
