"""Entanglement noise: clients add noise that cancels in the mean over all clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import State, with_changed_state
from hqde_fl.clients.message_fields import is_training, partition_of, server_round
from hqde_fl.noise import EntanglementNoise
from hqde_fl.protocol.message_roles import is_unsettled
from hqde_fl.seeding import Seeds


@final
@dataclass(frozen=True)
class EntanglementNoiseMod:
    """A Flower mod that adds a client's part of the noise to the weights it sends.

    The noise cancels only in an equally weighted mean over all clients: not if one is not selected,
    fails or is filtered. Weights that are tied get the same noise, complex ones in both parts;
    running statistics, counters and frozen entries get none. There is no noise in a round that has
    to show which weights are trained.

    Parameters
    ----------
    noise : EntanglementNoise
        The noise.
    seed : int
        The run's seed, the same for all clients.
    """

    noise: EntanglementNoise
    seed: int = 0

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Add noise to the reply to a training message; pass any other message on."""
        reply = call_next(message, context)
        if not is_training(message) or is_unsettled(message):
            return reply
        partition, count = partition_of(context)
        number = server_round(message)

        def add_noise(start: State, trained: State) -> State:
            sizes = [tensor.numel() for tensor in trained.values()]
            noise = self.noise.client_noise(
                partition, range(count), sum(sizes), number, Seeds(self.seed)
            )
            return {
                name: tensor.to(torch.float64) + part.reshape(tensor.shape)
                for (name, tensor), part in zip(trained.items(), noise.split(sizes), strict=True)
            }

        return with_changed_state(message, reply, add_noise)
