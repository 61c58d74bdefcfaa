"""Faults that act inside training, on the batches that the client learns from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.task import Task
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.clients.training import Poison, poison
from hqde_fl.errors import ConfigError

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A batch (x, y) -> the batch to train on instead."""


def train_poisoned(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    prepare: Callable[[TaskFacts], Change],
) -> Message:
    """The reply of training on changed batches.

    Parameters
    ----------
    message, context, call_next
        As a mod is given them.
    prepare : Callable[[TaskFacts], Change]
        Asked once for each model that is trained: the change of its batches.

    What ``prepare`` or the change raises ends the client's training and comes out of here as it was
    raised; whatever else the training raises passes.
    """
    token = poison.set(_Poisoning(prepare))
    try:
        return call_next(message, context)
    except _PoisonError as error:
        raise error.cause from None
    finally:
        poison.reset(token)


def require_poisoned(reply: Message) -> None:
    """Raise ``ConfigError`` if a client has trained without asking for the change that is set."""
    change = poison.get()
    if not isinstance(change, _Poisoning) or change.asked:
        return
    if not reply.has_error() and len(reply.content.array_records) > 0:
        raise ConfigError(
            "the client must train with hqde_fl.clients.training, as that of ensemble_app does, "
            "found one that does not"
        )


class _PoisonError(Exception):
    """What the fault raised, on its way through the client's own training."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@final
class _Poisoning(Poison):
    """Keeps apart what the fault raises and what training does."""

    def __init__(self, prepare: Callable[[TaskFacts], Change]) -> None:
        self._prepare = prepare
        self._change: Change | None = None
        self.asked = False

    def begin(self, task: Task, data: Dataset[Any], model: nn.Module) -> None:
        """Have the fault prepare its change for this training."""
        self.asked = True
        facts = TaskFacts(task, lambda: data, model)
        try:
            self._change = self._prepare(facts)
        except Exception as error:
            if error is facts.failure:  # the client's model or data: its honest part
                raise
            raise _PoisonError(error) from error

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The changed batch."""
        assert self._change is not None
        try:
            return self._change(x, y)
        except Exception as error:
            raise _PoisonError(error) from error
