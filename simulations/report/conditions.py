"""The conditions that the lines of a sweep meet, and their curves: means over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from hqde_fl.simulations.recording.comparison import Comparison, Group


@dataclass(frozen=True)
class Condition:
    """One combination of labels on all axes but the first.

    Parameters
    ----------
    title : str
        What it is called.
    groups : tuple[Group, ...]
        The lines in it.
    """

    title: str
    groups: tuple[Group, ...]

    def series(self, metric: str) -> dict[str, list[tuple[int, float | None]]]:
        """Label of the line -> (round, mean over the seeds) of a metric of the server."""
        found: dict[str, list[tuple[int, float | None]]] = {}
        for group in self.groups:
            points = _points(group, metric)
            if any(points.values()):
                found[group.labels[0]] = [(n, fmean(v) if v else None) for n, v in points.items()]
        return found

    def bands(self, metric: str) -> dict[str, list[tuple[int, float, float]]]:
        """Label of the line -> (round, least, greatest) where there are several seeds."""
        return {
            group.labels[0]: [
                (n, min(v), max(v)) for n, v in _points(group, metric).items() if len(v) > 1
            ]
            for group in self.groups
            if len(group.runs) > 1
        }


def conditions(comparison: Comparison) -> list[Condition]:
    """All conditions; those that show the same runs once, by what their names have in common."""
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for column in comparison.columns:
        groups = [comparison.at(line, column) for line in comparison.lines]
        key = tuple(row.directory for group in groups for row in group.rows)
        found.setdefault(key, []).append(column)
    return [
        Condition(
            ", ".join(_common(columns)) or "all runs",
            tuple(comparison.at(line, columns[0]) for line in comparison.lines),
        )
        for columns in found.values()
    ]


def _common(columns: Sequence[tuple[str, ...]]) -> list[str]:
    """The labels that all have."""
    return [labels[0] for labels in zip(*columns, strict=True) if len(set(labels)) == 1]


def _points(group: Group, metric: str) -> dict[int, list[float]]:
    """Round -> the values of the seeds that have one."""
    found: dict[int, list[float]] = {}
    for run in group.runs:
        for line in run.rounds:
            value = _metric(line, metric)
            found.setdefault(line["round"], []).extend([] if value is None else [value])
    return dict(sorted(found.items()))


def _metric(line: Mapping[str, Mapping[str, float | None]], name: str) -> float | None:
    value = line["server"].get(name)
    return None if value is None else float(value)
