"""Compute the numbers of a sweep's heat maps: the final metric, and scores of detection.

A row is a label of the compared axis (a rule, mostly), a column a label of another axis. The
template ``templates/sweep/heat_map.html.md`` draws the maps on the page, ``paper_figures`` those of
the metric for a paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain, count, product
from math import inf

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.seed_groups import SeedGroup
from hqde_fl.simulations.report.heat_colours import ColourScale
from hqde_fl.simulations.report.number_text import interval_text, metric_text
from hqde_fl.simulations.report.scores import (
    distinct_groups,
    faulty_detection,
    filtering_lines,
)

MAX_FILE_NAME_LENGTH = 60
"""Characters of a file's name, each of up to four bytes."""


@dataclass(frozen=True)
class HeatMapCell:
    """A cell of a heat map.

    Parameters
    ----------
    value : float or None
        The value, or None if there is none.
    position : float
        Its place between the worst (0) and the best (1) of the colour scale.
    deviation : float or None
        Standard deviation over the seeds.
    note : str
        The text shown when the pointer is on the cell.
    """

    value: float | None
    position: float
    deviation: float | None
    note: str


@dataclass(frozen=True)
class HeatMap:
    """Values for each label of a sweep's compared axis and each label of another axis.

    Parameters
    ----------
    title : str
        Its heading.
    file_name : str
        Name of its figure's files, without a suffix.
    lines, columns : tuple[str, ...]
        The labels of the rows and of the columns.
    cells : tuple[tuple[HeatMapCell, ...], ...]
        The rows.
    """

    title: str
    file_name: str
    lines: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[HeatMapCell, ...], ...]


def colour_scale(comparison: Comparison) -> ColourScale:
    """Return the scale that all maps of a sweep's metric share."""
    means = [group.mean for group in comparison.groups if group.mean is not None]
    return ColourScale.of(means, comparison.objective.higher_is_better())


def metric_maps(comparison: Comparison) -> list[HeatMap]:
    """Return maps of the first axis by the second, and of the first by each of the others.

    The first is the axis that is compared, and the others keep their order.

    There is one map of the first by the second axis for each combination of labels on the others.
    In a map of the first by another axis, a cell is the worst group over all the rest. There are no
    maps without a second axis; the seed is no axis here.
    """
    names = [axis.name for axis in comparison.compared_axes]
    if len(names) < 2:
        return []
    labels = [tuple(axis.labels) for axis in comparison.compared_axes]
    scale, maps = colour_scale(comparison), []
    for rest in product(*labels[2:]):
        title = f"{names[0]} by {names[1]}" + "".join(f", {label}" for label in rest)
        columns = {
            label: [comparison.group_at(line, (label, *rest)) for line in comparison.lines]
            for label in labels[1]
        }
        maps.append(_metric_map(comparison, scale, title, columns, names[1]))
    for place in range(2, len(names)):
        title = f"{names[0]} by {names[place]}, worst over the rest"
        columns = {label: _worst_groups(comparison, place, label) for label in labels[place]}
        maps.append(_metric_map(comparison, scale, title, columns, names[place]))
    return _with_unique_file_names(maps)


def detection_maps(comparison: Comparison) -> list[HeatMap]:
    """Return three maps, of F1, precision and recall, of the first axis by the second.

    The rows are the labels with a rule that can filter clients. There is one column if there is no
    second axis, and there are no maps without such a rule or without faulty clients.
    """
    lines = filtering_lines(comparison)
    if not lines or not any(group.faulty for group in comparison.groups):
        return []
    detections = {line: _detections(comparison, line) for line in lines}
    columns = tuple(dict.fromkeys(label for row in detections.values() for label in row))
    return [
        HeatMap(
            title,
            name,
            tuple(lines),
            columns,
            tuple(
                tuple(_detection_cell(detections[line].get(column), name) for column in columns)
                for line in lines
            ),
        )
        for title, name in (("F1", "f1"), ("Precision", "precision"), ("Recall", "recall"))
    ]


def _detections(comparison: Comparison, line: str) -> dict[str, Detection]:
    """Return label on the second axis -> detection counts of ``line``, a label on the first.

    Labels without faulty clients are left out. Without a second axis, ``all`` is the only label.
    """
    if len(comparison.compared_axes) < 2:
        return {"all": faulty_detection(distinct_groups(comparison, line))}
    groups = {
        label: [group for group in comparison.groups_of(line) if group.labels[1] == label]
        for label in comparison.compared_axes[1].labels
    }
    return {
        label: faulty_detection(line_groups)
        for label, line_groups in groups.items()
        if any(group.faulty for group in line_groups)
    }


def _metric_map(
    comparison: Comparison,
    scale: ColourScale,
    title: str,
    columns: dict[str, list[SeedGroup]],
    axis: str,
) -> HeatMap:
    distinct = {
        tuple(name for group in groups for name in group.directories) for groups in columns.values()
    }
    if len(columns) > 1 and len(distinct) == 1:  # without faulty clients every attack is the same
        columns = {f"any {axis}": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    cells = tuple(tuple(metric_cell(group, scale) for group in row) for row in rows)
    return HeatMap(title, file_name(title), comparison.lines, tuple(columns), cells)


def file_name(text: str) -> str:
    """Return a text as the name of a file, without what a file system may refuse."""
    return re.sub(r"[^\w.=-]+", "-", text)[:MAX_FILE_NAME_LENGTH].strip("-")


def _worst_groups(comparison: Comparison, place: int, label: str) -> list[SeedGroup]:
    """Return for each label on the first axis its worst group, given a label on another axis.

    ``place`` is the index of that axis. A finished group without a finite value is the worst, one
    that has not finished is chosen only if all have not.
    """
    return [
        max(
            (group for group in comparison.groups_of(line) if group.labels[place] == label),
            key=badness_of,
        )
        for line in comparison.lines
    ]


def badness_of(group: SeedGroup) -> float:
    """Return a group's badness: infinite if its value is not finite, minus that if unfinished."""
    if group.badness is not None:
        return group.badness
    return inf if group.status == "not finite" else -inf


def _with_unique_file_names(maps: Iterable[HeatMap]) -> list[HeatMap]:
    """Return the maps with ``-2``, ``-3``, ... added to file names that are taken but for case."""
    unique: dict[str, HeatMap] = {}
    for heat in maps:
        names = chain([heat.file_name], (f"{heat.file_name}-{number}" for number in count(2)))
        name = next(name for name in names if name.casefold() not in unique)
        unique[name.casefold()] = replace(heat, file_name=name)
    return list(unique.values())


def metric_cell(group: SeedGroup, scale: ColourScale) -> HeatMapCell:
    """Return the cell of a group."""
    seeds = ", ".join(map(metric_text, group.by_seed.values()))
    text = group.error or (f"seeds: {seeds}" if seeds else group.status)
    if group.interval is not None:
        text += f"; 95 % interval of the mean {interval_text(group.interval)}"
    place = 0.0 if group.mean is None else scale.position(group.mean)
    return HeatMapCell(group.mean, place, group.deviation, f"{', '.join(group.labels)}: {text}")


def _detection_cell(detection: Detection | None, score: str) -> HeatMapCell:
    if detection is None:
        return HeatMapCell(None, 0.0, None, "not run")
    counts = (
        f"{detection.caught} of {detection.judged.faulty} faulty updates filtered, "
        f"{detection.false_alarms} of {detection.judged.honest} honest ones"
    )
    value: float | None = getattr(detection, score)
    return HeatMapCell(value, value or 0.0, None, counts)
