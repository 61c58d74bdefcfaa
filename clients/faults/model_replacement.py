"""Model replacement: a backdoor scaled so that it survives the mean (Bagdasaryan et al., 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.backdoor import Backdoor
from hqde_fl.clients.faults.backdoor_base import BackdoorFault, Watch
from hqde_fl.clients.faults.base import State, with_changed_state
from hqde_fl.clients.faults.planted_backdoor import (
    PlantedBackdoor,
    scaled_models,
    update_length,
    weights_of_models,
)
from hqde_fl.clients.message_fields import partition_of
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class ModelReplacement(PlantedBackdoor):
    """Model replacement: a backdoor's update, multiplied so that the mean becomes the attackers'.

    The update u becomes gamma u with gamma = n / ``attackers``, where n is the number of all
    clients: if the honest updates cancel out, the plain mean then is the attackers' model
    (arXiv:1807.00459). With a ``bound`` gamma is at most bound / ||u||, the paper's
    train-and-scale against a server that bounds lengths. The attackers know their own data and n.

    Parameters
    ----------
    backdoor : BackdoorFault, default=Backdoor()
        The backdoor to plant.
    attackers : int, default=1
        Number of clients that send it in a round, >= 1.
    scale : float, default=0.0
        gamma, >= 0; 0 for n / ``attackers``.
    bound : float, default=0.0
        Greatest length of what is sent, >= 0; 0 for none.
    """

    backdoor: BackdoorFault = field(default_factory=Backdoor)
    attackers: int = 1
    scale: float = 0.0
    bound: float = 0.0

    def __post_init__(self) -> None:
        self.check_backdoor()
        if self.attackers < 1:
            raise ConfigError(f"ModelReplacement.attackers must be >= 1, found {self.attackers}")
        for name in ("scale", "bound"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"ModelReplacement.{name} must be finite and >= 0, found {value}")

    def train(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        watch: Watch | None = None,
    ) -> Message:
        """Return the backdoor's reply with each model's update multiplied by gamma."""
        _, clients = partition_of(context)
        scale = self.scale or max(1.0, clients / self.attackers)
        models = weights_of_models(message)

        def replace(start: State, trained: State) -> State:
            lengths = [update_length(start, trained, names) for names in models]
            factors = [
                min(scale, self.bound / own) if self.bound and own > 0 else scale for own in lengths
            ]
            return scaled_models(start, trained, models, factors)

        reply = self.backdoor.train(message, context, call_next, watch)
        return with_changed_state(message, reply, replace)
