"""Score the lines of a sweep over all conditions: worst and mean value, detection, cost.

The labels of the compared axis (of the rule, mostly) are the lines; the combinations of labels on
all other axes are the conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.detection import Count, Detection
from hqde_fl.simulations.recording.seed_groups import SeedGroup

MEGABYTE = 1e6


@dataclass(frozen=True)
class LineScore:
    """The scores of one line of a sweep's table over all conditions.

    A line is a label on the compared axis (a rule, mostly). A condition is a combination of labels
    on the other axes but the seed; it is complete if all its seeds finished with a finite value of
    the compared metric. Conditions that share the same runs count once.

    Parameters
    ----------
    line : str
        The label of the line.
    worst : SeedGroup or None
        The seeds of the complete condition with the worst mean; None if none is complete.
    mean : float or None
        Mean over the complete conditions with faulty clients, or in a sweep without faulty clients
        over all complete ones; None if none is complete.
    clean : float or None
        Mean over the complete conditions without faulty clients; None if there is none.
    detection : Detection
        Counts over all conditions with faulty clients.
    unjudged : Mapping[str, Count]
        The clients whose update never reached the rule, by outcome, over all conditions.
    missing : int
        Number of conditions with a run that failed, was interrupted or did not begin.
    not_finite : int
        Number of conditions whose runs finished, but one without a finite value.
    megabytes_up, megabytes_down : float or None
        Mean traffic of a run from and to the clients; None if no run began.
    seconds : float or None
        Mean wall time of a run; None if no run began.
    virtual_time : float or None
        Mean virtual seconds of a run; None if no run has a virtual clock.
    time_to_target : float or None
        Mean virtual seconds until a run reached its target; None unless all runs did.
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
    not_finite: int
    megabytes_up: float | None
    megabytes_down: float | None
    seconds: float | None
    virtual_time: float | None
    time_to_target: float | None
    memory: float | None

    @property
    def incomplete(self) -> str:
        """The conditions that are not complete, as text; empty if all are."""
        parts = []
        if self.missing:
            parts.append(f"{self.missing} failed or not run")
        if self.not_finite:
            parts.append(f"{self.not_finite} not finite")
        return ", ".join(parts)

    @property
    def rank_key(self) -> tuple[bool, float]:
        """Return the key to sort lines by: incomplete conditions last, then the worst case."""
        badness = None if self.worst is None else self.worst.badness
        return bool(self.missing or self.not_finite), inf if badness is None else badness


def line_scores(comparison: Comparison) -> list[LineScore]:
    """Return the scores of all lines of a sweep.

    They are sorted by the value under the worst condition, the best first; lines with conditions
    that are not complete come last.
    """
    scores = [_score(comparison, line) for line in comparison.lines]
    return sorted(scores, key=lambda score: score.rank_key)


def filtering_lines(comparison: Comparison) -> list[str]:
    """Return the lines with a run whose rule can filter clients."""
    return [
        line
        for line in comparison.lines
        if any(group.filters for group in comparison.groups_of(line))
    ]


def faulty_detection(groups: Iterable[SeedGroup]) -> Detection:
    """Return the sums of the groups' detection counts, groups without faulty clients left out."""
    return Detection.total(group.detection for group in groups if group.faulty)


def distinct_groups(comparison: Comparison, line: str) -> list[SeedGroup]:
    """Return the groups of a line.

    A group that has the same runs as an earlier one is left out.
    """
    distinct: dict[tuple[str, ...], SeedGroup] = {}
    for group in comparison.groups_of(line):
        distinct.setdefault(group.directories, group)
    return list(distinct.values())


def _score(comparison: Comparison, line: str) -> LineScore:
    groups = distinct_groups(comparison, line)
    known = [(group.mean, group) for group in groups if group.mean is not None]
    attacked = [mean for mean, group in known if group.faulty]
    clean = [mean for mean, group in known if not group.faulty]
    runs = [run for group in groups for run in group.runs]
    up = [sum(record["bytes-up"] for record in run.rounds) / MEGABYTE for run in runs]
    down = [sum(record["bytes-down"] for record in run.rounds) / MEGABYTE for run in runs]
    memory = [run.manifest.get("memory-mib") for run in runs]
    targets = [run.time_to_target for run in runs]
    reached = [seconds for seconds in targets if seconds is not None]
    statuses = [group.status for group in groups]
    return LineScore(
        line=line,
        worst=max((g for _, g in known), key=lambda g: g.badness or 0.0) if known else None,
        mean=_mean(attacked if any(g.faulty for g in comparison.groups) else clean),
        clean=_mean(clean),
        detection=faulty_detection(groups),
        unjudged=Detection.total(group.detection for group in groups).unjudged,
        missing=sum(status not in ("finished", "not finite") for status in statuses),
        not_finite=statuses.count("not finite"),
        megabytes_up=_mean(up),
        megabytes_down=_mean(down),
        seconds=_mean([run.manifest.get("wall-seconds") or run.seconds for run in runs]),
        virtual_time=_mean([run.virtual_time for run in runs if run.virtual_time is not None]),
        time_to_target=_mean(reached) if len(reached) == len(targets) else None,
        memory=max((value for value in memory if value is not None), default=None),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
