"""Compare each line of a sweep with its baseline, condition by condition, over common seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from hqde_fl.simulations.recording.seed_groups import SeedGroup
from hqde_fl.simulations.statistics.analysis import Analysis
from hqde_fl.simulations.statistics.paired import PairedDifference, paired_difference, with_holm


class ComparedLines(Protocol):
    """The lines and conditions of a sweep, as a ``Comparison`` has them."""

    @property
    def analysis(self) -> Analysis:
        """The settings of the comparison."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines."""

    @property
    def baseline_line(self) -> str:
        """The line that the others are compared with."""

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """The conditions."""

    @property
    def distinct_columns(self) -> tuple[tuple[str, ...], ...]:
        """The conditions, each of them once."""

    def group_at(self, line: str, column: tuple[str, ...]) -> SeedGroup:
        """Return the runs of a line under a condition."""


@dataclass(frozen=True)
class BaselineDifferences:
    """The differences of a sweep's groups and lines to those of the baseline.

    Parameters
    ----------
    groups : Mapping[tuple[str, ...], PairedDifference]
        Labels of a group -> its difference to the baseline under the same condition. Holm's
        correction is over the lines of a condition.
    lines : Mapping[str, PairedDifference]
        Line -> its difference, for each seed the mean over the conditions that are complete for the
        line and for the baseline. Holm's correction is over the lines.
    conditions : Mapping[str, int]
        Line -> the number of these conditions.
    """

    groups: Mapping[tuple[str, ...], PairedDifference]
    lines: Mapping[str, PairedDifference]
    conditions: Mapping[str, int]


def baseline_differences(comparison: ComparedLines) -> BaselineDifferences:
    """Return the differences of all groups and lines of a sweep but the baseline's own."""
    baseline = comparison.baseline_line
    others = [line for line in comparison.lines if line != baseline]
    method = comparison.analysis.method
    groups: dict[tuple[str, ...], PairedDifference] = {}
    for column in comparison.columns:
        its_values = comparison.group_at(baseline, column).by_seed
        family = {}
        for line in others:
            group = comparison.group_at(line, column)
            if difference := paired_difference(group.by_seed, its_values, method):
                family[group.labels] = difference
        groups |= with_holm(family)
    lines: dict[str, PairedDifference] = {}
    conditions: dict[str, int] = {}
    for line in others:
        pairs = [
            (group.by_seed, reference.by_seed)
            for column in comparison.distinct_columns
            if (group := comparison.group_at(line, column)).complete
            and (reference := comparison.group_at(baseline, column)).complete
        ]
        if pairs:
            seeds = pairs[0][0]
            own, their = (
                {seed: fmean(pair[side][seed] for pair in pairs) for seed in seeds}
                for side in (0, 1)
            )
            if difference := paired_difference(own, their, method):
                lines[line], conditions[line] = difference, len(pairs)
    return BaselineDifferences(groups, with_holm(lines), conditions)
