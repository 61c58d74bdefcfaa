"""Updates of clients that have trained: a perceptron on digits of which each has few classes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from hqde_fl.simulations.tasks.digits import Digits

ALPHA = 0.1
"""Of the Dirichlet distribution of a client's classes."""

EXAMPLES, BATCH, RATE = 64, 32, 0.1
"""Examples of a client, in a batch, and the learning rate."""


def trained_updates(n: int, d: int, seed: int = 0) -> Tensor:
    """Return (n, about d) float32 updates of one epoch of SGD, from one model.

    The number of hidden units is the largest with at most d parameters.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    hidden = int((math.sqrt(76**2 + 4 * (d - 10)) - 76) / 2)
    layers = (nn.Linear(64, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 10))
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    start = parameters_to_vector(model.parameters()).detach().clone()
    table = Digits().table("train")
    inputs, labels = Digits().prepare(table.inputs).flatten(1), table.labels
    of_class = [np.flatnonzero(labels.numpy() == label) for label in range(10)]
    updates = torch.empty(n, len(start))
    for update in updates:
        classes = rng.choice(10, EXAMPLES, p=rng.dirichlet([ALPHA] * 10))
        chosen = torch.tensor([int(rng.choice(of_class[label])) for label in classes])
        vector_to_parameters(start.clone(), model.parameters())
        for batch in chosen.split(BATCH):
            model.zero_grad()
            cross_entropy(model(inputs[batch]), labels[batch]).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter -= RATE * parameter.grad
        torch.sub(parameters_to_vector(model.parameters()).detach(), start, out=update)
    return updates
