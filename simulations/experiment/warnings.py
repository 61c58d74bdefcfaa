"""Warnings of choices in an experiment that can run and may be mistakes."""

from __future__ import annotations

from collections.abc import Iterable

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment


def warnings_of(experiment: Experiment) -> list[str]:
    """Return a line for each choice in an experiment that may be a mistake.

    Those are a rule that few silent clients stop, at least as many faulty clients in a round as no
    rule tolerates (half of all), a selector or rule that decides by real time, and a delta of
    differential privacy that is too large.
    """
    parts = experiment.parts
    warnings = (
        parts.warning,
        _faulty_half(experiment),
        _real_time(experiment),
        None if parts.plan is None else parts.plan.warning,
    )
    return [text for text in warnings if text]


def require_none(warnings: Iterable[str]) -> None:
    """Raise ``ConfigError`` with all warnings in one line, if there are any."""
    if text := "; ".join(warnings):
        raise ConfigError(f"{text} (an error because of --strict)")


def _faulty_half(experiment: Experiment) -> str | None:
    clients, faults = experiment.clients.count, experiment.parts.faults.faults
    faulty = {
        number: sum(fault.count for fault in faults if fault.schedule.active(number))
        for number in range(1, experiment.rounds + 1)
    }
    rounds = [number for number, count in faulty.items() if 2 * count >= clients]
    if not rounds:
        return None
    most = max(faulty.values())
    when = "in every round" if len(rounds) == experiment.rounds else f"in round {rounds[0]}"
    if 0 < len(rounds) - 1 < experiment.rounds - 1:
        when += f" and {len(rounds) - 1} more"
    if most == clients:
        return f"all {clients} clients are faulty {when}: no update is honest"
    return f"{most} of {clients} clients are faulty {when}: no rule tolerates half of them or more"


def _real_time(experiment: Experiment) -> str | None:
    parts = experiment.parts
    if parts.heterogeneity.keeps_time:
        return None
    selector, rule = parts.participation.selector, parts.rule
    timed: list[object] = [selector] if selector.uses_history and selector.uses_times else []
    timed += [rule] if rule.confidence_from == "efficiency" else []
    if not timed:
        return None
    return (
        f"{timed[0]} decides by measured times: two runs with one seed may differ, unless the "
        "clients' speeds are simulated (clients.speed)"
    )
