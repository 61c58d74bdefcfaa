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
    """The scores of one line of a sweep's table over all conditions.

    A line is a label on the first axis (a rule, mostly). A condition is a combination of labels on
    the other axes but the seed; it is finished if all its seeds finished with an accuracy.
    Conditions that share the same runs count once.

    Parameters
    ----------
    line : str
        The label of the line.
    worst : SeedGroup or None
        The seeds of the finished condition with the least accuracy; None if none is finished.
    mean : float or None
        Mean accuracy over the finished conditions with faulty clients, or over all finished ones if
        none of them has faulty clients; None if none is finished.
    clean : float or None
        Mean accuracy over the finished conditions without faulty clients; None if there is none.
    detection : Detection
        Counts over all conditions with faulty clients.
    unjudged : Mapping[str, Count]
        The clients whose update never reached the rule, by outcome, over all conditions.
    missing : int
        Number of conditions that are not finished.
    megabytes_up, megabytes_down : float or None
        Mean traffic of a run from and to the clients; None if no run began.
    seconds : float or None
        Mean wall time of a run; None if no run began.
    memory : float or None
        The most memory that the process of a run had in use, in MiB; None if not recorded.
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
        """The accuracy under the worst finished condition, -1 if none is finished."""
        accuracy = None if self.worst is None else self.worst.accuracy
        return -1.0 if accuracy is None else accuracy


def line_scores(comparison: Comparison) -> list[LineScore]:
    """Return the scores of all labels on a sweep's first axis.

    They are sorted by the worst accuracy, the highest first; labels with cells that did not finish
    come last.
    """
    scores = [_score(comparison, line) for line in comparison.lines]
    return sorted(scores, key=lambda score: (score.missing > 0, -score.worst_accuracy))


def filtering_lines(comparison: Comparison) -> list[str]:
    """Return the labels on the first axis with a run whose rule can filter clients."""
    return [
        line
        for line in comparison.lines
        if any(group.filters for group in comparison.groups_of(line))
    ]


def faulty_detection(groups: Iterable[SeedGroup]) -> Detection:
    """Return the sums of the groups' detection counts, groups without faulty clients left out."""
    return Detection.total(group.detection for group in groups if group.faulty)


def distinct_groups(comparison: Comparison, line: str) -> list[SeedGroup]:
    """Return the groups with a label on the first axis.

    A group that has the same runs as an earlier one is left out.
    """
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
