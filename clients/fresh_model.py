"""A model that begins every message as it was built, whatever its modules keep besides weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FunctionType
from typing import final

from torch import Tensor, nn
from torch.optim import Optimizer


@final
class FreshModel:
    """A model and its optimiser, from which nothing leaks from one message into the next.

    Weights and buffers come with each message. What a module keeps elsewhere, such as the state of
    a recurrent layer in an attribute, a counter, a buffer that is not in the state dict, or
    ``requires_grad``, is that of a model just built: each message gets a copy of the modules that
    shares their weights, so that it costs little. A model that cannot be copied, or that keeps
    closures, as hooks often are, is built anew.

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
        self._is_copyable = not _keeps_closures(self._pristine)
        self._shared = [*shared, *(parameter for parameter, _ in self._trained)]

    def load(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, Optimizer]:
        """Return the model with the weights and buffers of a state dict, and its optimiser."""
        model = None
        if self._is_copyable:
            with suppress(Exception):  # modules may keep what cannot be copied, such as locks
                # ids are those of this process: an app may have been sent here with its models
                memo = {id(tensor): tensor for tensor in self._shared}
                model = copy.deepcopy(self._pristine, memo)
        if model is None:
            model = self._build()
            model.load_state_dict(state)
            return model, self._new_optimizer(model)
        for parameter, requires_grad in self._trained:
            parameter.requires_grad_(requires_grad)
        model.load_state_dict(state)
        return model, self._optimizer


def _keeps_closures(model: nn.Module) -> bool:
    """Return True if a module keeps a function, such as a hook, that has captured something.

    A copy shares its functions with the original, and they would go on to act on the original.
    """
    kept = [value for module in model.modules() for value in vars(module).values()]
    kept += [item for value in kept if isinstance(value, dict) for item in value.values()]
    return any(isinstance(value, FunctionType) and value.__closure__ for value in kept)
