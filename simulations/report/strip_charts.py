"""Compute the numbers of strip charts: the fractions of clients filtered, round by round.

The template ``templates/sweep/strip_chart.html.md`` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.seed_groups import SeedGroup


@dataclass(frozen=True)
class Strip:
    """Fractions of clients filtered in each round, for one combination of labels in a sweep.

    Parameters
    ----------
    label : str
        The labels on all axes but the compared one and the seed; the line's if there are none.
    rounds : tuple[tuple[int, float | None, float | None], ...]
        For each round its number, the fraction of the judged faulty clients that the rule filtered,
        and the fraction of the judged honest ones; None for a fraction of no clients. An attacker
        counts only in the rounds in which its fault acts.
    """

    label: str
    rounds: tuple[tuple[int, float | None, float | None], ...]


@dataclass(frozen=True)
class StripChart:
    """The strips of one line of a sweep (a rule, mostly).

    Parameters
    ----------
    line : str
        The label.
    strips : tuple[Strip, ...]
        One strip for each combination of labels on the other axes that has faulty clients.
    last_round : int
        The last round of any strip.
    """

    line: str
    strips: tuple[Strip, ...]
    last_round: int


def strip_charts(comparison: Comparison, lines: Sequence[str]) -> list[StripChart]:
    """Return the strip chart of each label in ``lines``, all of them lines of the sweep.

    A label without faulty clients or without a recorded round has none.
    """
    charts = []
    for line in lines:
        groups = [group for group in comparison.groups_of(line) if group.faulty]
        strips = tuple(Strip(", ".join(g.labels[1:]) or line, _rounds(g)) for g in groups)
        last = max((number for strip in strips for number, _, _ in strip.rounds), default=0)
        if last:
            charts.append(StripChart(line, strips, last))
    return charts


def detection_by_round(
    clients: Sequence[Mapping[str, object]], filters: bool
) -> dict[int, Detection]:
    """Return round -> detection counts from the lines of ``clients.jsonl``.

    ``filters`` is True if the rule is one that filters clients.
    """
    rounds: dict[int, list[Mapping[str, object]]] = {}
    for client in clients:
        number = client["round"]
        assert isinstance(number, int)
        rounds.setdefault(number, []).append(client)
    return {number: Detection.of(lines, filters) for number, lines in sorted(rounds.items())}


def _rounds(group: SeedGroup) -> tuple[tuple[int, float | None, float | None], ...]:
    seeds = [detection_by_round(run.clients, run.filters) for run in group.runs]
    numbers = sorted({number for seed in seeds for number in seed})
    totals = {n: Detection.total(seed[n] for seed in seeds if n in seed) for n in numbers}
    return tuple((n, total.recall, total.alarm_rate) for n, total in totals.items())
