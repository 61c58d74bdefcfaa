"""Compute heat maps of the worst attack, by two axes such as f and the heterogeneity.

Those of byzfl's benchmark: one for each rule, and one of the best rule in each cell.
"""

from __future__ import annotations

from math import inf

from hqde_fl.simulations.recording.choice import ATTACK_AXES
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.seed_groups import SeedGroup
from hqde_fl.simulations.report.heat_maps import (
    HeatMap,
    badness_of,
    colour_scale,
    file_name,
    metric_cell,
)


def worst_attack_maps(comparison: Comparison) -> list[HeatMap]:
    """Return a map for each line, and one of the best line, of the worst attack in each cell.

    The columns are labels of the first axis that is neither compared nor an attack, the rows those
    of the second. There are no maps without an attack and two such axes, or with more. A cell with
    an attack that has not finished is that attack's.
    """
    names = [axis.name for axis in comparison.compared_axes]
    others = [name for name in names[1:] if name.partition(".")[0] not in ATTACK_AXES]
    if len(others) != 2 or len(others) == len(names) - 1:
        return []
    across, down = (names.index(name) for name in others)
    labels = [tuple(axis.labels) for axis in comparison.compared_axes]
    worst = {
        (line, row, column): max(
            (
                group
                for group in comparison.groups_of(line)
                if group.labels[down] == row and group.labels[across] == column
            ),
            key=_badness,
        )
        for line in comparison.lines
        for row in labels[down]
        for column in labels[across]
    }
    scale = colour_scale(comparison)

    def heat(title: str, lines: tuple[str, ...]) -> HeatMap:
        cells = tuple(
            tuple(
                metric_cell(min((worst[line, row, column] for line in lines), key=_badness), scale)
                for column in labels[across]
            )
            for row in labels[down]
        )
        return HeatMap(title, file_name(title), labels[down], labels[across], cells)

    what = f"{others[1]} by {others[0]}, worst attack"
    maps = [heat(f"{line}: {what}", (line,)) for line in comparison.lines]
    if len(comparison.lines) > 1:
        maps.append(heat(f"Best {names[0]}: {what}", comparison.lines))
    return maps


def _badness(group: SeedGroup) -> float:
    """Return a group's badness, in which one that has not finished is the worst."""
    return badness_of(group) if group.status in ("finished", "not finite") else inf
