"""Who was dropped when, over all runs of a sweep: shares of the faulty and of the honest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hqde_fl.simulations.recording.comparison import Comparison, Group
from hqde_fl.simulations.recording.detection import Detection


@dataclass(frozen=True)
class Strip:
    """One condition.

    Parameters
    ----------
    label : str
        What it is called.
    rounds : tuple[tuple[int, float | None, float | None], ...]
        Round, share of the faulty clients that the rule filtered of those whose updates it judged,
        and share of the honest ones.
    """

    label: str
    rounds: tuple[tuple[int, float | None, float | None], ...]


@dataclass(frozen=True)
class Strips:
    """All conditions that a line met, with faulty clients in them.

    Parameters
    ----------
    line : str
        Its label.
    strips : tuple[Strip, ...]
        One for each condition.
    last : int
        The last round.
    """

    line: str
    strips: tuple[Strip, ...]
    last: int


def strips_of(comparison: Comparison, lines: Sequence[str]) -> list[Strips]:
    """The strips of some lines, those left out that have nothing to show."""
    found = []
    for line in lines:
        groups = [g for g in comparison.groups if g.labels[0] == line and g.faulty]
        strips = tuple(Strip(", ".join(g.labels[1:]) or line, _rounds(g)) for g in groups)
        last = max((number for strip in strips for number, _, _ in strip.rounds), default=0)
        if last:
            found.append(Strips(line, strips, last))
    return found


def by_round(clients: Sequence[Mapping[str, object]], filters: bool) -> dict[int, Detection]:
    """Round -> how well faulty clients were told from honest ones in it."""
    found: dict[int, list[Mapping[str, object]]] = {}
    for each in clients:
        number = each["round"]
        assert isinstance(number, int)
        found.setdefault(number, []).append(each)
    return {number: Detection.of(lines, filters) for number, lines in sorted(found.items())}


def _rounds(group: Group) -> tuple[tuple[int, float | None, float | None], ...]:
    seeds = [by_round(run.clients, run.filters) for run in group.runs]
    numbers = sorted({number for seed in seeds for number in seed})
    totals = {n: Detection.total(seed[n] for seed in seeds if n in seed) for n in numbers}
    return tuple((n, total.recall, total.alarm_rate) for n, total in totals.items())
