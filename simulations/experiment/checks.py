"""Check that the tables of an experiment go together: no single table can tell."""

from __future__ import annotations

import torch

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.ledger import PrivacyState
from hqde_fl.rules import Tree
from hqde_fl.simulations.attacks import Attack
from hqde_fl.simulations.experiment.errors import parameters_of
from hqde_fl.simulations.experiment.parts import Parts
from hqde_fl.simulations.experiment.sections import (
    ClientsSection,
    MetricsSection,
    StrategySection,
)
from hqde_fl.strategies.private_plan import PrivatePlan


def check_attacks(parts: Parts) -> None:
    """Raise ``ConfigError`` if an attack that is adapted to the rule meets one it cannot know.

    That is one with confidence, or with an update of the server's own.
    """
    for planned in parts.faults.faults:
        adapted = isinstance(planned.fault, Attack) and planned.fault.needs_rule
        rule = parts.rule if parts.edges is None else parts.edges.rule
        if adapted and (rule.confidence_from or "reference" in rule.needs):
            raise ConfigError(
                f"attack {planned.name!r} is made for a rule that judges by the updates, "
                f"found {rule}"
            )


def check_privacy(parts: Parts, strategy: StrategySection, metrics: MetricsSection) -> None:
    """Raise ``ConfigError`` if an experiment with differential privacy lets private numbers out.

    Those are numbers without noise, results of a rule without a bounded sensitivity, and edges'.
    """
    if parts.aggregation.privacy is None:
        return
    edges = 0 if parts.edges is None else parts.edges.count
    for key, wanted, found, reason in (
        ("edges.groups", "0", edges, "an edge merges updates without noise"),
        ("metrics.honest-mean", "false", metrics.honest_mean, "it measures updates without noise"),
    ):
        if found:
            value = str(found).lower()
            raise ConfigError(f"[privacy] needs {key} = {wanted}, as {reason}, found {value}")
    if strategy.density == "always":
        raise ConfigError(
            "[privacy] needs strategy.density = 'free' or 'never', as it describes updates without "
            "noise, found 'always'"
        )
    selector, count = parts.participation.selector, parts.clients
    fraction = getattr(selector, "fraction", 1.0)
    if fraction * count < 1:
        raise ConfigError(
            "[privacy] needs at least 1 client in an expected round, found clients.count x "
            f"strategy.fraction-train = {count} x {fraction:g}"
        )
    with parameters_of("strategy"):
        _ = parts.plan


def check_secure_aggregation(parts: Parts, metrics: MetricsSection) -> None:
    """Raise ``ConfigError`` if a part of an experiment reads single updates, which are masked."""
    secure = parts.aggregation.secure_aggregation
    if secure is None:
        return
    key = "strategy.secure-aggregation"
    settings = parts.settings
    settings.check_secure_aggregation()
    for found, reason in (
        (parts.edges is not None, "edges.groups: edges take no masks off"),
        (metrics.honest_mean, "metrics.honest-mean, which reads single updates"),
        (
            parts.faults.attack is not None,
            "colluding attacks, which compute with the updates of "
            "others: faults of single clients do",
        ),
    ):
        if found:
            raise ConfigError(f"{key} does not go together with {reason}")
    if parts.cohort < (needed := secure.threshold_of(parts.cohort)):
        of_each = " of each member" if parts.members_differ else ""
        raise ConfigError(
            f"{key} needs at least {needed} clients{of_each} in a round, found {parts.cohort}"
        )


def check_calibration(plan: PrivatePlan, rounds: int) -> None:
    """Raise ``ConfigError`` if no noise makes a number of rounds as private as they are to be.

    Or if the noise on the count of an adaptive clipping is too little for it.
    """
    plan.accountant.require()
    with parameters_of("privacy.adaptive-clipping"):
        plan.mechanism(PrivacyState(plan.multiplier(rounds), plan.privacy.clipping_norm))


def check_secure_noise(parts: Parts) -> None:
    """Raise ``ConfigError`` if the noise that protects the data of real nodes comes from a seed."""
    clients = parts.client_privacy
    for key, privacy in (
        ("privacy", parts.aggregation.privacy),
        ("clients.local-dp", clients.local),
        ("clients.dp-sgd", clients.examples),
    ):
        if privacy is not None and privacy.noise.seeded:
            raise ConfigError(
                f"{key}.noise needs to be 'secure-gaussian' on real nodes: whoever knows the seed "
                f"subtracts the noise of {privacy.noise}"
            )


def check_cohort(parts: Parts, clients: ClientsSection, strategy: StrategySection) -> None:
    """Raise ``ConfigError`` if too few clients train each member for the quorum or the rule.

    The number of those that are registered on real nodes is not known.

    It is also raised if the vote cannot combine so many members, or if entanglement noise would not
    cancel.
    """
    ensemble, sampled = parts.ensemble, parts.sampled
    voters = clients.voters or ensemble.members
    if voters > ensemble.members:
        raise ConfigError(
            f"clients.voters must be <= {ensemble.members} (clients.members), found {voters}"
        )
    if clients.voters and ensemble.mode == "fedavg":
        raise ConfigError(
            f"clients.voters needs clients.mode = 'independent', found {ensemble.mode!r}"
        )
    parts.predictor.predict(torch.full((voters, 1, 2), 0.5))  # raises for another number
    parts.noises.check(sampled, clients.count, ensemble)
    if parts.edges is not None:
        if parts.noises.entanglement is not None:
            raise ConfigError(
                "clients.entanglement-noise cancels over all clients, found it with edges"
            )
        _check_edges(parts, parts.edges.count, strategy)
        return
    if clients.registered:
        _check_registered(parts)
        return
    cohort, of_each = f"{clients.count} clients", ""
    if sampled < clients.count:
        chosen_by = f"strategy.selector {strategy.selector['name']!r}"
        if strategy.fraction_train < 1:
            chosen_by = f"strategy.fraction-train = {strategy.fraction_train:g}"
        if clients.without:
            chosen_by += f", clients.without = {list(clients.without)}"
        cohort = f"{sampled} ({cohort}, {chosen_by})"
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
    minimum, merged = parts.rule.minimum(), parts.cohort
    if (secure := parts.aggregation.secure_aggregation) is not None:
        merged = secure.buckets(parts.cohort)
        cohort = f"{merged} (buckets of {secure.bucket}, {cohort})"
    if merged < minimum:
        raise ConfigError(f"{parts.rule} needs at least {minimum} updates{of_each}, found {cohort}")
    if isinstance(parts.rule, Tree) and not parts.rule.fits(merged):
        raise ConfigError(
            f"{parts.rule} needs groups large enough for its rules{of_each}, found {cohort}: "
            "choose another fanout or another number of clients"
        )


def _check_registered(parts: Parts) -> None:
    """Raise ``ConfigError`` for parts that need to know the number of clients."""
    fixed = "needs a fixed clients.count, found 'registered'"
    if parts.aggregation.privacy is not None:
        raise ConfigError(f"[privacy] samples clients from all, so it {fixed}")
    if parts.noises.entanglement is not None:
        raise ConfigError(f"clients.entanglement-noise cancels over all clients, so it {fixed}")


def _check_edges(parts: Parts, edges: int, strategy: StrategySection) -> None:
    """Raise ``ConfigError`` if there are too few edges for the quorum or the server's rule."""
    if strategy.quorum > edges:
        raise ConfigError(f"strategy.quorum = {strategy.quorum} needs as many edges, found {edges}")
    if edges < (minimum := parts.rule.minimum()):
        raise ConfigError(f"{parts.rule} needs at least {minimum} edges, found {edges}")
