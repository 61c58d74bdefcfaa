"""Checks of what does not go together with secure aggregation, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hqde_fl.errors import ConfigError
from hqde_fl.rules import Aggregator, ByzantineFilter, Chain, Robust, Rule
from hqde_fl.selection import Selector
from hqde_fl.strategies.state import ModelState

_REASONS = {
    "control_variates": "control variates would reach the server without masks",
    "privacy": "the server would have to clip single updates",
    "codec": "packed updates cannot be added up: SecureAggregation.bits says how many bits a "
    "number has",
}


_WITHOUT_MEMORY: Mapping[type | None, str] = {
    Robust: " (Robust with directions=False)",
    ByzantineFilter: " (ByzantineFilter with detectors other than 'directions')",
}
"""Rule -> how it remembers none."""


def check_secure_aggregation(
    rule: Aggregator, selector: Selector, others: Mapping[str, object]
) -> None:
    """Raise ``ConfigError`` if a part needs more of single clients than the sum of a bucket.

    Parameters
    ----------
    rule : Aggregator
        The rule, which merges the means of buckets that are other ones in each round.
    selector : Selector
        Chooses the clients of a round.
    others : Mapping[str, object]
        Name of a setting -> a true value if it is set.
    """
    wanted = "secure aggregation needs"
    if (found := _remembering(rule)) is not None or "history" in rule.needs:
        hint = _WITHOUT_MEMORY.get(type(found), "")
        raise ConfigError(
            f"{wanted} a rule that remembers no clients, as buckets are dealt anew in each round"
            f"{hint}, found {rule}"
        )
    if rule.confidence_from is not None:
        raise ConfigError(
            f"{wanted} a rule without confidence in single clients, whose updates and metrics the "
            f"server does not see, found {rule}"
        )
    if selector.uses_history or selector.uses_sketches:
        raise ConfigError(
            f"{wanted} a selector that knows nothing of the clients' updates and losses, "
            f"found {selector}"
        )
    for name, is_set in others.items():
        if is_set:
            raise ConfigError(
                f"{wanted} {name} to be left out: {_REASONS[name.rpartition('.')[2]]}"
            )


def _remembering(rule: Aggregator) -> Rule | None:
    """Return the rule, or that of a chain, that remembers clients; None if none does."""
    steps = rule.steps if isinstance(rule, Chain) else (rule,)
    return next((step for step in steps if isinstance(step, Rule) and step.remembers), None)


def check_secure_noise(members: int, fraction_evaluate: float) -> None:
    """Raise ``ConfigError`` if something of clients would leave them without noise.

    Parameters
    ----------
    members : int
        The number of members of the ensemble.
    fraction_evaluate : float
        The fraction of clients that evaluate the model.
    """
    wanted = "SecureAggregation.noise_multiplier > 0 needs"
    if members > 1:
        raise ConfigError(f"{wanted} one model, found {members} members")
    if fraction_evaluate:
        raise ConfigError(
            f"{wanted} Participation.fraction_evaluate = 0, as metrics have no noise, "
            f"found {fraction_evaluate:g}"
        )


def check_secure_models(models: Sequence[ModelState], buffers: str) -> None:
    """Raise ``ConfigError`` if a model has statistics that would have to be merged without noise.

    Parameters
    ----------
    models : Sequence[ModelState]
        The members.
    buffers : str
        "local" if statistics stay with the clients.
    """
    for model in models:
        statistics = [e.name for e in model.layout.others if e.role == "statistics"]
        if statistics and buffers != "local":
            raise ConfigError(
                "SecureAggregation.noise_multiplier > 0 needs Aggregation.buffers = 'local', as "
                f"merged statistics have no noise, found {statistics[0]!r} and {buffers!r}"
            )
