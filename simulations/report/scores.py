"""Score the lines of a sweep over all conditions: worst and mean accuracy, detection, cost.

The labels of the first axis (of the rule, mostly) are the lines that are compared; the combinations
of labels on all other axes are the conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.detection import Count, Detection
from hqde_fl.simulations.recording.seed_groups import SeedGroup

MEGABYTE = 1e6


@dataclass(frozen=True)
class LineScore:
    """The scores of one line over all conditions.

    Parameters
    ----------
    line : str
        The label of the line.
    worst : SeedGroup or None
        The group with the least accuracy, among those in which all seeds finished.
    mean : float or None
        Mean accuracy over the conditions with faulty clients, or over all if none has any.
    clean : float or None
        Mean accuracy over the conditions without faulty clients.
    detection : Detection
        Counts over all conditions with faulty clients.
    unjudged : Mapping[str, Count]
        The clients whose update the rule never judged, by outcome, over all conditions.
    missing : int
        Number of conditions in which not all seeds finished.
    megabytes_up, megabytes_down : float or None
        Mean traffic of a run from and to the clients.
    seconds : float or None
        Mean wall time of a run.
    memory : float or None
        The most memory that the process of a run had in use, in MiB.
    """

    line: str
    worst: SeedGroup | None
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
    def worst_accuracy(self) -> float:
        """The accuracy of the worst group, -1 if there is none."""
        accuracy = None if self.worst is None else self.worst.accuracy
        return -1.0 if accuracy is None else accuracy


def line_scores(comparison: Comparison) -> list[LineScore]:
    """Return the scores of all lines, best worst case first, incomplete lines last."""
    scores = [_score(comparison, line) for line in comparison.lines]
    return sorted(scores, key=lambda score: (score.missing > 0, -score.worst_accuracy))


def filtering_lines(comparison: Comparison) -> list[str]:
    """Return the lines with a rule that can filter clients."""
    return [
        line
        for line in comparison.lines
        if any(group.filters for group in comparison.groups_of(line))
    ]


def faulty_detection(groups: Iterable[SeedGroup]) -> Detection:
    """Return the total of the detection counts of the groups with faulty clients."""
    return Detection.total(group.detection for group in groups if group.faulty)


def distinct_groups(comparison: Comparison, line: str) -> list[SeedGroup]:
    """Return the groups of a line, without those that show the runs of an earlier group again."""
    distinct: dict[tuple[str, ...], SeedGroup] = {}
    for group in comparison.groups_of(line):
        distinct.setdefault(group.directories, group)
    return list(distinct.values())


def _score(comparison: Comparison, line: str) -> LineScore:
    groups = distinct_groups(comparison, line)
    known = [(group.accuracy, group) for group in groups if group.accuracy is not None]
    attacked = [accuracy for accuracy, group in known if group.faulty]
    clean = [accuracy for accuracy, group in known if not group.faulty]
    everything = [accuracy for accuracy, _ in known]
    runs = [run for group in groups for run in group.runs]
    up = [sum(record["bytes-up"] for record in run.rounds) / MEGABYTE for run in runs]
    down = [sum(record["bytes-down"] for record in run.rounds) / MEGABYTE for run in runs]
    memory = [run.manifest.get("memory-mib") for run in runs]
    return LineScore(
        line=line,
        worst=min(known, key=lambda pair: pair[0])[1] if known else None,
        mean=_mean(attacked or everything),
        clean=_mean(clean),
        detection=faulty_detection(groups),
        unjudged=Detection.total(group.detection for group in groups).unjudged,
        missing=len(groups) - len(known),
        megabytes_up=_mean(up),
        megabytes_down=_mean(down),
        seconds=_mean([run.manifest.get("wall-seconds") or run.seconds for run in runs]),
        memory=max((value for value in memory if value is not None), default=None),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
