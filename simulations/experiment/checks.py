"""Check that the tables of an experiment and its model go together: no single table can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hqde_fl.clients.initial_state import initial_models
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.rules import Aggregator
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks import ATTACKS
from hqde_fl.simulations.experiment.parts import Parts
from hqde_fl.simulations.experiment.sections import ClientsSection, StrategySection
from hqde_fl.terminal_text import describe_error


def check_attacks(rule: Aggregator, faults: Sequence[Mapping[str, Any]]) -> None:
    """Raise ``ConfigError`` if an attack that is adapted to the rule meets one with confidence."""
    for attack in (fault["name"] for fault in faults if fault["name"] in list(ATTACKS)):
        if rule.confidence_from and ATTACKS[attack].needs_rule:
            raise ConfigError(
                f"attack {attack!r} is made for a rule that judges by the updates, found {rule}"
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


def check_model(task: Task, seeds: Seeds) -> None:
    """Raise ``ConfigError`` if a task's model cannot be built, or not be trained in a federation.

    The message names the entry that cannot be carried.
    """
    try:
        initial_models(task, 1, seeds)
    except ConfigError:
        raise
    except Exception as error:  # of the user's code
        raise ConfigError(f"the task's model cannot be built: {describe_error(error)}") from error
