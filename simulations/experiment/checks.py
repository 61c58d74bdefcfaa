"""Check that the tables of an experiment go together: no single table can tell."""

from __future__ import annotations

import torch

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks import Attack
from hqde_fl.simulations.experiment.parts import Parts
from hqde_fl.simulations.experiment.sections import ClientsSection, StrategySection


def check_attacks(parts: Parts) -> None:
    """Raise ``ConfigError`` if an attack that is adapted to the rule meets one with confidence."""
    for planned in parts.faults.faults:
        adapted = isinstance(planned.fault, Attack) and planned.fault.needs_rule
        if adapted and parts.rule.confidence_from:
            raise ConfigError(
                f"attack {planned.name!r} is made for a rule that judges by the updates, "
                f"found {parts.rule}"
            )


def check_cohort(parts: Parts, clients: ClientsSection, strategy: StrategySection) -> None:
    """Raise ``ConfigError`` if too few clients train each member for the quorum or the rule.

    It is also raised if the vote cannot combine so many members, or if entanglement noise would not
    cancel.
    """
    ensemble, sampled = parts.ensemble, parts.sampled
    parts.predictor.predict(torch.full((ensemble.members, 1, 2), 0.5))  # raises for another number
    parts.noises.check(sampled, clients.count, ensemble)
    cohort, of_each = f"{clients.count} clients", ""
    if sampled < clients.count:
        cohort = f"{sampled} ({cohort}, strategy.fraction-train = {strategy.fraction_train:g})"
    if parts.members_differ:
        of_each = " of each member"
        cohort = (
            f"{parts.cohort} ({cohort}, clients.members-per-client = {ensemble.trained_members} "
            f"of clients.members = {ensemble.members})"
        )
    if strategy.quorum > parts.cohort:
        raise ConfigError(
            f"strategy.quorum = {strategy.quorum} needs as many clients{of_each}, found {cohort}"
        )
    minimum = parts.rule.minimum()
    if parts.cohort < minimum:
        raise ConfigError(f"{parts.rule} needs at least {minimum} updates{of_each}, found {cohort}")
