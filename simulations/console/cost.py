"""The messages and bytes that a run would cost, from the size of its model and its codecs."""

from __future__ import annotations

import numpy as np
import torch

from hqde_fl.clients.initial_state import initial_models, initial_roles
from hqde_fl.clients.task import Task
from hqde_fl.codec import Codec, Identity
from hqde_fl.simulations.experiment.experiment import Experiment

ENTRY_BYTES, MESSAGE_BYTES = 160, 200
"""What an entry of a model takes besides its numbers, and a message besides its entries."""


def cost_text(experiment: Experiment, task: Task) -> str:
    """Return one line: "ok: ...", the messages of a run and about the bytes of a round."""
    parts = experiment.parts
    clients, rounds = parts.sampled, experiment.rounds
    trained = parts.ensemble.trained_members
    (model,) = initial_models(task, 1, parts.seeds)
    roles, entries = initial_roles(task), dict[str, int]()
    weights = numbers = 0
    tied = set(roles.tied)
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        size = tensor.numel() * tensor.element_size() + ENTRY_BYTES
        role = roles.of(name, str(tensor.dtype).removeprefix("torch."))
        entries[role] = entries.get(role, 0) + size
        if role == "trainable":
            weights += size
            numbers += tensor.numel() * (2 if tensor.is_complex() else 1)
    whole = sum(entries.values())
    unchanged = entries.get("frozen", 0)
    others = whole - weights - unchanged
    up = others + packed_bytes(parts.communication.codec, numbers, weights)
    down = others + packed_bytes(parts.communication.downlink, numbers, weights)
    down, up, first = (clients * (trained * size + MESSAGE_BYTES) for size in (down, up, whole))
    text = f"about {_size(down)} down and {_size(up)} up a round"
    if first != down:
        text += f" ({_size(first)} down in the first)"
    share = f"{clients} of {parts.clients}" if clients < parts.clients else f"{clients}"
    return f"ok: {share} clients x {rounds} rounds, {clients * rounds} replies; {text}"


def packed_bytes(codec: Codec, numbers: int, weights: int) -> int:
    """Return the bytes of an update, of random numbers, in a codec; ``weights`` if it is exact.

    Parameters
    ----------
    codec : Codec
        The codec.
    numbers : int
        Length of the update; of a long one, a part is packed.
    weights : int
        Bytes of the weights without a codec.
    """
    if isinstance(codec, Identity):
        return weights
    size = min(numbers, 1_000_000)
    update = torch.randn(size, generator=torch.Generator().manual_seed(0))
    payload, _ = codec.encode(update, {}, np.random.default_rng(0))
    return round(len(payload) * numbers / size) + ENTRY_BYTES


def _size(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB"
