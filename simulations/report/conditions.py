"""Compute curves over the rounds, means over the seeds, for each condition of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.seed_groups import SeedGroup

MIN_BAND_SEEDS = 3
"""Fewest seeds whose interval a chart shows."""


@dataclass(frozen=True)
class Condition:
    """One combination of labels on all axes but the compared one and the seed.

    Parameters
    ----------
    title : str
        The labels that they have in common, joined; ``all runs`` if there are none.
    groups : tuple[SeedGroup, ...]
        One group of seeds for each label on the compared axis.
    """

    title: str
    groups: tuple[SeedGroup, ...]

    def curves(self, metric: str) -> dict[str, list[tuple[int, float | None]]]:
        """Return label of a line -> (round, mean over the seeds) of a server metric.

        The mean is None in a round without a value; a label without any value is left out.
        """
        curves: dict[str, list[tuple[int, float | None]]] = {}
        for group in self.groups:
            points = _points(group, metric)
            if any(points.values()):
                curves[group.labels[0]] = [(n, fmean(v) if v else None) for n, v in points.items()]
        return curves

    def bands(self, metric: str) -> dict[str, list[tuple[int, float, float]]]:
        """Return label of a line -> (round, low, high), the 95 % interval of a metric's mean.

        Only labels with ``MIN_BAND_SEEDS`` runs are in it, with the rounds that have as many
        values: an interval of two seeds is wider than any chart.
        """
        bands = {}
        for group in self.groups:
            band = []
            for number, values in _points(group, metric).items():
                interval = group.measured(metric, tuple(values)).interval if values else None
                if interval is not None and len(values) >= MIN_BAND_SEEDS:
                    band.append((number, *interval))
            if band:
                bands[group.labels[0]] = band
        return bands


def conditions(comparison: Comparison) -> list[Condition]:
    """Return a sweep's conditions; those that show the same runs become one.

    Its title has the labels that they have in common, or is ``all runs``.
    """
    by_runs: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for column in comparison.columns:
        groups = [comparison.group_at(line, column) for line in comparison.lines]
        directories = tuple(name for group in groups for name in group.directories)
        by_runs.setdefault(directories, []).append(column)
    return [
        Condition(
            ", ".join(_common_labels(columns)) or "all runs",
            tuple(comparison.group_at(line, columns[0]) for line in comparison.lines),
        )
        for columns in by_runs.values()
    ]


def _common_labels(columns: Sequence[tuple[str, ...]]) -> list[str]:
    return [labels[0] for labels in zip(*columns, strict=True) if len(set(labels)) == 1]


def _points(group: SeedGroup, metric: str) -> dict[int, list[float]]:
    """Return round -> the values of a server metric in it, one for each run that has any."""
    points: dict[int, list[float]] = {}
    for run in group.runs:
        for record in run.rounds:
            value = _metric(record, metric)
            points.setdefault(record["round"], []).extend([] if value is None else [value])
    return dict(sorted(points.items()))


def _metric(record: Mapping[str, Mapping[str, float | None]], name: str) -> float | None:
    value = record["server"].get(name)
    return None if value is None else float(value)
