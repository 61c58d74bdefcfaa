"""A sweep in numbers: who holds out in the worst case, heat maps, who was singled out, the cost.

The first axis is what is compared (a rule, mostly), all others are the conditions it meets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, count, product
from statistics import fmean

from hqde_fl.simulations.recording.comparison import Comparison, Group
from hqde_fl.simulations.recording.detection import Count, Detection

MEGABYTE = 1e6

LONGEST = 60
"""Characters of a file's name, each of up to four bytes."""


@dataclass(frozen=True)
class Score:
    """What became of one line over all conditions.

    Parameters
    ----------
    line : str
        Its label.
    worst : Group or None
        Where its accuracy is least, among the conditions in which all seeds finished.
    mean : float or None
        Its mean accuracy over all conditions with faulty clients, or over all if none has any.
    clean : float or None
        Its mean accuracy where nobody is faulty.
    detection : Detection
        How well it told faulty from honest clients, over all conditions with faulty clients.
    unjudged : Mapping[str, Count]
        The clients whose update the rule never saw, by what happened to them, over all conditions.
    missing : int
        Conditions in which not all seeds finished.
    megabytes_up, megabytes_down : float or None
        Mean traffic of a run.
    seconds : float or None
        Mean time of a run.
    memory : float or None
        The most memory that the process of a run had in use, in MiB.
    """

    line: str
    worst: Group | None
    mean: float | None
    clean: float | None
    detection: Detection
    unjudged: Mapping[str, Count]
    missing: int
    megabytes_up: float | None
    megabytes_down: float | None
    seconds: float | None
    memory: float | None

    @property
    def rank(self) -> float:
        """Sorts the best first."""
        found = None if self.worst is None else self.worst.accuracy
        return -1.0 if found is None else found


@dataclass(frozen=True)
class Spot:
    """A place of a heat map.

    Parameters
    ----------
    value : float or None
        In [0, 1].
    spread : float or None
        Half the distance between the best and the worst seed.
    note : str
        What to say of it beside the number.
    """

    value: float | None
    spread: float | None
    note: str


@dataclass(frozen=True)
class HeatMap:
    """Values in [0, 1] of every line under every condition.

    Parameters
    ----------
    title : str
        Its heading.
    slug : str
        Its name as a file.
    lines, columns : tuple[str, ...]
        What the rows and columns are called.
    spots : tuple[tuple[Spot, ...], ...]
        The rows.
    """

    title: str
    slug: str
    lines: tuple[str, ...]
    columns: tuple[str, ...]
    spots: tuple[tuple[Spot, ...], ...]


@dataclass(frozen=True)
class Study:
    """A comparison, looked at from above.

    Parameters
    ----------
    comparison : Comparison
        What is looked at.
    """

    comparison: Comparison

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        """The lines, best worst case first; those of which something is missing last."""
        found = [self._score(line) for line in self.comparison.lines]
        return tuple(sorted(found, key=lambda score: (score.missing > 0, -score.rank)))

    @cached_property
    def filters(self) -> tuple[str, ...]:
        """The lines with a rule that singles out clients."""
        found = self.comparison.lines
        return tuple(line for line in found if any(g.filters for g in self._groups(line)))

    def heat_maps(self) -> tuple[HeatMap, ...]:
        """First axis by second, one for each combination of the others; then first by the others.

        Where the first axis meets any other than the second, a spot is the worst over all the rest.
        """
        names = [axis.name for axis in self.comparison.compared]
        if len(names) < 2:
            return ()
        labels = [tuple(axis.labels) for axis in self.comparison.compared]
        maps = []
        for rest in product(*labels[2:]):
            title = f"{names[0]} by {names[1]}" + "".join(f", {label}" for label in rest)
            columns = {
                label: [(line, label, *rest) for line in self.comparison.lines]
                for label in labels[1]
            }
            maps.append(self._map(title, columns, names[1]))
        for place in range(2, len(names)):
            title = f"{names[0]} by {names[place]}, worst over the rest"
            columns = {label: self._worst_at(place, label) for label in labels[place]}
            maps.append(self._map(title, columns, names[place]))
        return _told_apart(maps)

    def detection_maps(self) -> tuple[HeatMap, ...]:
        """Precision, recall and F1 of the filters, by the second axis."""
        if not self.filters or not any(group.faulty for group in self.comparison.groups):
            return ()
        found = {line: self._detections(line) for line in self.filters}
        columns = tuple(dict.fromkeys(label for line in found.values() for label in line))
        return tuple(
            HeatMap(
                title,
                name,
                self.filters,
                columns,
                tuple(
                    tuple(_judged(found[line].get(column), name) for column in columns)
                    for line in self.filters
                ),
            )
            for title, name in (("F1", "f1"), ("Precision", "precision"), ("Recall", "recall"))
        )

    def _detections(self, line: str) -> dict[str, Detection]:
        """Label on the second axis -> how well a line told faulty from honest clients there."""
        if len(self.comparison.compared) < 2:
            return {"all": self._score(line).detection}
        found = {
            label: _faulty(self._groups(line, label))
            for label in self.comparison.compared[1].labels
        }
        return {
            label: Detection.total(group.detection for group in groups)
            for label, groups in found.items()
            if groups
        }

    def _map(self, title: str, columns: dict[str, list[tuple[str, ...]]], axis: str) -> HeatMap:
        groups = {
            name: [self.comparison.at(labels[0], labels[1:]) for labels in places]
            for name, places in columns.items()
        }
        same = {_directories(found) for found in groups.values()}
        if len(groups) > 1 and len(same) == 1:  # nobody is faulty: whatever the attack
            groups = {f"any {axis}": next(iter(groups.values()))}
        lines = self.comparison.lines
        spots = [
            tuple(_spot(groups[name][place]) for name in groups) for place in range(len(lines))
        ]
        slug = re.sub(r"[^\w.=-]+", "-", title)[:LONGEST].strip("-")
        return HeatMap(title, slug, lines, tuple(groups), tuple(spots))

    def _worst_at(self, place: int, label: str) -> list[tuple[str, ...]]:
        """For each line the labels of its worst group with a label at a place."""
        found = []
        for line in self.comparison.lines:
            groups = [g for g in self._groups(line) if g.labels[place] == label]
            worst = min(groups, key=lambda g: 2.0 if g.accuracy is None else g.accuracy)
            found.append(worst.labels)
        return found

    def _groups(self, line: str, second: str | None = None) -> list[Group]:
        return [
            group
            for group in self.comparison.groups
            if group.labels[0] == line and (second is None or group.labels[1] == second)
        ]

    def _score(self, line: str) -> Score:
        groups = _different(self._groups(line))
        known = [(g.accuracy, g) for g in groups if g.accuracy is not None]
        attacked = [accuracy for accuracy, group in known if group.faulty]
        clean = [accuracy for accuracy, group in known if not group.faulty]
        everything = [accuracy for accuracy, _ in known]
        runs = [run for group in groups for run in group.runs]
        up = [sum(each["bytes-up"] for each in run.rounds) / MEGABYTE for run in runs]
        down = [sum(each["bytes-down"] for each in run.rounds) / MEGABYTE for run in runs]
        memory = [run.manifest.get("memory-mib") for run in runs]
        return Score(
            line=line,
            worst=min(known, key=lambda pair: pair[0])[1] if known else None,
            mean=_mean(attacked or everything),
            clean=_mean(clean),
            detection=Detection.total(group.detection for group in _faulty(groups)),
            unjudged=Detection.total(group.detection for group in groups).unjudged,
            missing=len(groups) - len(known),
            megabytes_up=_mean(up),
            megabytes_down=_mean(down),
            seconds=_mean([run.manifest.get("wall-seconds") or run.seconds for run in runs]),
            memory=max((each for each in memory if each is not None), default=None),
        )


def _told_apart(maps: Iterable[HeatMap]) -> tuple[HeatMap, ...]:
    """Maps, with numbers in their names as files where those would be the same."""
    found: dict[str, HeatMap] = {}
    for heat in maps:
        names = chain([heat.slug], (f"{heat.slug}-{number}" for number in count(2)))
        slug = next(name for name in names if name.casefold() not in found)
        found[slug.casefold()] = replace(heat, slug=slug)
    return tuple(found.values())


def _different(groups: Iterable[Group]) -> list[Group]:
    """Groups without those that show the runs of an earlier one again."""
    found: dict[tuple[str, ...], Group] = {}
    for group in groups:
        found.setdefault(_directories([group]), group)
    return list(found.values())


def _directories(groups: Sequence[Group]) -> tuple[str, ...]:
    return tuple(row.directory for group in groups for row in group.rows)


def _faulty(groups: Iterable[Group]) -> list[Group]:
    return [group for group in groups if group.faulty]


def _spot(group: Group) -> Spot:
    seeds = ", ".join(f"{accuracy:.3f}" for accuracy in group.accuracies)
    what = group.error or (f"seeds: {seeds}" if seeds else group.status)
    return Spot(group.accuracy, group.spread, f"{', '.join(group.labels)}: {what}")


def _judged(detection: Detection | None, name: str) -> Spot:
    if detection is None:
        return Spot(None, None, "not run")
    counts = (
        f"{detection.caught} of {detection.judged.faulty} faulty updates filtered, "
        f"{detection.false_alarms} of {detection.judged.honest} honest ones"
    )
    return Spot(getattr(detection, name), None, counts)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
