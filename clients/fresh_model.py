"""A model that begins every message as it was built, whatever its modules keep besides weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import final

from torch import Tensor, nn
from torch.optim import Optimizer


@final
class FreshModel:
    """A model and its optimiser, from which nothing leaks from one message into the next.

    Weights and buffers come with each message. What a module keeps elsewhere, such as the state of
    a recurrent layer in an attribute, a counter, a buffer that is not in the state dict, or
    ``requires_grad``, is that of a model just built: each message gets a copy of the modules that
    shares their weights, so that it costs little. A model that cannot be copied is built anew.

    Parameters
    ----------
    build : Callable[[], nn.Module]
        Builds the model, always the same.
    new_optimizer : Callable[[nn.Module], Optimizer]
        Returns an optimiser of a model's parameters.
    """

    def __init__(
        self, build: Callable[[], nn.Module], new_optimizer: Callable[[nn.Module], Optimizer]
    ) -> None:
        self._build, self._new_optimizer = build, new_optimizer
        self._pristine = build()
        self._optimizer = new_optimizer(self._pristine)
        self._trained = [(p, p.requires_grad) for p in self._pristine.parameters()]
        shared = self._pristine.state_dict(keep_vars=True).values()
        self._shared = [*shared, *(parameter for parameter, _ in self._trained)]

    def load(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, Optimizer]:
        """Return the model with the weights and buffers of a state dict, and its optimiser."""
        try:
            # ids are those of this process: an app may have been sent here with its models
            model = copy.deepcopy(self._pristine, {id(tensor): tensor for tensor in self._shared})
        except Exception:  # modules may keep what cannot be copied, such as locks
            model = self._build()
            model.load_state_dict(state)
            return model, self._new_optimizer(model)
        for parameter, requires_grad in self._trained:
            parameter.requires_grad_(requires_grad)
        model.load_state_dict(state)
        return model, self._optimizer
