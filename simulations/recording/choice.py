"""Choose hyperparameters on the validation set against the worst attack, and keep those runs.

The protocol of byzfl's benchmark: for each setting (a rule, a partition, an f, ...) the
hyperparameters whose mean over the seeds is best under the attack that is worst for them. Equally
good ones: those that come first in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from statistics import fmean

from hqde_fl.clients.objective import VALIDATION, Objective
from hqde_fl.simulations.recording.comparison import SEED, Comparison
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.seed_groups import ComparisonRow

ATTACK_AXES = ("attack", "faults")
"""Names of the axes over which the worst case counts."""

Labels = tuple[str, ...]


@dataclass(frozen=True)
class SettingChoice:
    """The hyperparameters chosen for one setting.

    Parameters
    ----------
    setting : tuple[str, ...]
        The labels on the axes that are neither chosen, nor an attack, nor the seed.
    chosen : tuple[str, ...] or None
        The labels on the chosen axes; None as long as a run of the setting has not finished.
    worst : float or None
        Their mean validation metric under their worst attack; None if it is not finite.
    under : tuple[str, ...]
        The labels of that attack.
    tied : int
        Number of other hyperparameters that are as good, and come later.
    rounds : Mapping[tuple[str, ...], int or None]
        Attack -> the round whose model counts; None for the last one.
    """

    setting: Labels
    chosen: Labels | None = None
    worst: float | None = None
    under: Labels = ()
    tied: int = 0
    rounds: Mapping[Labels, int | None] = field(default_factory=dict)


def setting_axes(comparison: Comparison) -> list[str]:
    """Return the names of the axes that make a setting."""
    taken = (SEED, *comparison.analysis.choose)
    return [
        axis.name for axis in comparison.axes if not (axis.name in taken or _attacks(axis.name))
    ]


def choices(comparison: Comparison) -> list[SettingChoice]:
    """Return the choice for each setting of a sweep, in the order of the file."""
    axes = [axis.name for axis in comparison.axes]
    chosen = partial(_picked, axes, list(comparison.analysis.choose))
    setting = partial(_picked, axes, setting_axes(comparison))
    attack = partial(_picked, axes, [name for name in axes if _attacks(name)])
    table: dict[Labels, dict[Labels, dict[Labels, list[ComparisonRow]]]] = {}
    for row in comparison.rows:
        of_setting = table.setdefault(setting(row.labels), {})
        of_setting.setdefault(chosen(row.labels), {}).setdefault(attack(row.labels), []).append(row)
    return [_choice(comparison, labels, candidates) for labels, candidates in table.items()]


def chosen_only(comparison: Comparison) -> Comparison:
    """Return the comparison of the chosen runs only, without the axes that were chosen from.

    With ``choose-round = "best"`` a run ends with the round that was chosen. A setting without a
    choice has cells that have not run. The comparison itself is returned if it chooses nothing, or
    nothing yet.
    """
    names = list(comparison.analysis.choose)
    by_setting = {choice.setting: choice for choice in choices(comparison)} if names else {}
    if all(choice.chosen is None for choice in by_setting.values()):
        return comparison
    axes = [axis.name for axis in comparison.axes]
    kept = [name for name in axes if name not in names]
    attacks = [name for name in axes if _attacks(name)]
    rows: dict[Labels, ComparisonRow] = {}
    for row in comparison.rows:
        choice = by_setting[_picked(axes, setting_axes(comparison), row.labels)]
        labels = _picked(axes, kept, row.labels)
        if choice.chosen is None:
            missing = rows.get(labels) or ComparisonRow(labels, "", None)
            rows[labels] = replace(missing, error=missing.error or row.error)
        elif choice.chosen == _picked(axes, names, row.labels):
            number = choice.rounds[_picked(axes, attacks, row.labels)]
            rows[labels] = replace(row, labels=labels, run=_until(row.run, number))
    return Comparison(
        comparison.title,
        tuple(axis for axis in comparison.axes if axis.name in kept),
        tuple(rows.values()),
        replace(comparison.analysis, choose=()),
        comparison.document,
    )


def is_chosen(comparison: Comparison) -> list[bool | None]:
    """Return for each row of a comparison whether it was chosen, None without a choice."""
    axes = [axis.name for axis in comparison.axes]
    by_setting = {choice.setting: choice.chosen for choice in choices(comparison)}
    found: list[bool | None] = []
    for row in comparison.rows:
        chosen = by_setting[_picked(axes, setting_axes(comparison), row.labels)]
        own = _picked(axes, list(comparison.analysis.choose), row.labels)
        found.append(None if chosen is None else chosen == own)
    return found


def _choice(
    comparison: Comparison,
    setting: Labels,
    candidates: Mapping[Labels, Mapping[Labels, Sequence[ComparisonRow]]],
) -> SettingChoice:
    """Return the choice among hyperparameters -> attack -> the runs of all seeds."""
    every = [row for attacks in candidates.values() for rows in attacks.values() for row in rows]
    if any(row.status != "finished" for row in every):
        return SettingChoice(setting)
    primary = comparison.objective.primary.removeprefix(VALIDATION)
    objective = Objective(f"{VALIDATION}{primary}", comparison.objective.directions)
    best = comparison.analysis.choose_round == "best"
    found: list[tuple[float, SettingChoice]] = []
    for labels, attacks in candidates.items():
        scores = {attack: _score(rows, objective, best) for attack, rows in attacks.items()}
        under, (badness, _) = max(scores.items(), key=lambda item: item[1][0])
        worst = None if badness == inf else objective.badness(badness)  # its own inverse
        rounds = {attack: number for attack, (_, number) in scores.items()}
        found.append((badness, SettingChoice(setting, labels, worst, under, rounds=rounds)))
    least = min(badness for badness, _ in found)
    equal = [choice for badness, choice in found if badness == least]
    return replace(equal[0], tied=len(equal) - 1)


def _score(
    rows: Sequence[ComparisonRow], objective: Objective, best: bool
) -> tuple[float, int | None]:
    """Return the badness of the mean over the seeds, and the round it is of, None for the last.

    A mean that is not finite is infinitely bad.
    """
    if not best:
        return _badness([row.final(objective.primary) for row in rows], objective), None
    by_round: dict[int, list[float | None]] = {}
    for row in rows:
        assert row.run is not None
        for line in row.run.rounds:
            if line["server"]:
                values = by_round.setdefault(line["round"], [])
                values.append(line["server"].get(objective.primary))
    complete = [number for number, values in by_round.items() if len(values) == len(rows)]
    scored = [(_badness(by_round[number], objective), number) for number in complete]
    return min(scored, default=(inf, None))  # of equal ones the earliest


def _badness(values: Sequence[float | None], objective: Objective) -> float:
    finite = [value for value in values if value is not None]
    return objective.badness(fmean(finite)) if len(finite) == len(values) else inf


def _until(run: Run | None, number: int | None) -> Run | None:
    """Return a run as if it had ended after a round; whole if that is None."""
    if run is None or number is None:
        return run
    return replace(run, rounds=tuple(line for line in run.rounds if line["round"] <= number))


def _picked(axes: Sequence[str], names: Sequence[str], labels: Labels) -> Labels:
    """Return the labels on the axes with some names."""
    return tuple(labels[axes.index(name)] for name in names)


def _attacks(name: str) -> bool:
    return name.partition(".")[0] in ATTACK_AXES
