"""Knowledge of a round besides its updates and clients, for the rules that need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hqde_fl.errors import ConfigError

Need = Literal["reference", "layers", "history"]
"""A rule's need besides updates: a field of ``RoundContext``, or clients that keep their rows.

``"history"``: the rule remembers each client from round to round, so that every row that it is
given must be one client's.
"""


@dataclass(frozen=True, eq=False)
class RoundContext:
    """Facts that the server gives a rule; a part of the ``Cohort``, so that every step gets them.

    Parameters
    ----------
    reference : Tensor or None
        (d,) the update that training on the server's own data makes of the same model; None if the
        server has no data.
    layers : tuple[int, ...]
        Numbers in each of the model's weights, in the order in which they stand in an update; their
        sum is d. Empty if it is not known.
    weights : Tensor or None
        (d,) the weights that the clients trained from; None if they are not known.
    """

    reference: Tensor | None = None
    layers: tuple[int, ...] = ()
    weights: Tensor | None = None

    def needed_reference(self, rule: object) -> Tensor:
        """Return the reference update, or raise ``ConfigError`` that names the rule."""
        if self.reference is None:
            raise ConfigError(
                f"{rule} needs a reference update (RoundContext.reference), found none: give "
                "Aggregation.root_training, in an experiment strategy.root-examples"
            )
        return self.reference

    def needed_layers(self, rule: object, size: int) -> tuple[int, ...]:
        """Return the layers, or raise ``ConfigError`` if their sum is not ``size``."""
        if sum(self.layers) != size:
            raise ConfigError(
                f"{rule} needs the numbers of each layer (RoundContext.layers), {size} in all, "
                f"found {sum(self.layers)}"
            )
        return self.layers


NO_CONTEXT = RoundContext()
"""The context where nothing is known."""
