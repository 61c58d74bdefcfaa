"""Facts that the server gives a rule besides the updates: its own update, layers and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from hqde_fl.errors import BoundError, ConfigError
from hqde_fl.own_modules import own_code
from hqde_fl.rules import Aggregator, Cohort, RoundContext
from hqde_fl.strategies.state import ModelState

RootTraining = Callable[[Mapping[str, Tensor], int, float], Mapping[str, Tensor]]
"""Function (a model's state dict, round, examples) -> state dict after training on server data.

Examples are those of a typical client: the median of their claims, for as many steps as it takes.
"""


def check_root_training(rule: Aggregator, root_training: RootTraining | None) -> None:
    """Raise ``ConfigError`` if a rule lacks the server's training, or does not use it."""
    needs = "reference" in rule.needs
    if needs and root_training is None:
        raise ConfigError(
            f"{rule} needs root_training to make an update of the server's own, found none"
        )
    if not needs and root_training is not None:
        raise ConfigError(
            f"root_training acts with a rule that needs a reference update only, found {rule}"
        )


def context_for(
    rule: Aggregator, model: ModelState, cohort: Cohort, root_training: RootTraining | None
) -> RoundContext:
    """Return what a rule needs to know of a round.

    Parameters
    ----------
    rule : Aggregator
        The rule; what it does not need is left out.
    model : ModelState
        The model that the clients trained from.
    cohort : Cohort
        The round's clients.
    root_training : RootTraining or None
        Trains the model on the server's data.

    Raises
    ------
    BoundError
        If the server's own update is not finite.
    """
    reference = None
    if "reference" in rule.needs:
        assert root_training is not None
        claims = cohort.num_examples or (0.0,)
        examples = sorted(claims)[(len(claims) - 1) // 2]
        state = model.layout.restore(model.origin, model.others)
        with own_code("root training"):
            trained = root_training(state, cohort.round, examples)
            flat, _ = model.layout.flatten(trained)
        reference = flat - model.origin
        if not bool(reference.isfinite().all()):
            raise BoundError(
                f"{rule} needs a finite update of the server's own, found one that is not"
            )
    layers = tuple(e.numbers for e in model.layout.weights) if "layers" in rule.needs else ()
    return RoundContext(reference, layers, model.origin if "history" in rule.needs else None)
