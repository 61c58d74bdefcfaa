"""Training on changed batches, for faults that act inside a client's training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.task import Task
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.clients.training_hooks import Poison, poison
from hqde_fl.errors import ConfigError

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A batch (x, y) -> the batch to train on instead of it."""


def train_poisoned(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    prepare: Callable[[TaskFacts], Change],
) -> Message:
    """Run a client's training on changed batches and return its reply.

    Exceptions of ``prepare`` and of the change end the training and are raised unchanged, like
    those of the training itself.

    Parameters
    ----------
    message, context, call_next
        The arguments of a Flower mod.
    prepare : Callable[[TaskFacts], Change]
        Returns the change of a model's batches; called once for each model that is trained.
    """
    token = poison.set(_Poisoning(prepare))
    try:
        return call_next(message, context)
    except _PoisonError as error:
        raise error.cause from None
    finally:
        poison.reset(token)


def require_poisoned(reply: Message) -> None:
    """Raise ``ConfigError`` if a client trained without the batches of ``train_poisoned``.

    Outside of ``train_poisoned``, and for a reply with an error or without arrays, do nothing.
    """
    change = poison.get()
    if not isinstance(change, _Poisoning) or change.begun:
        return
    if not reply.has_error() and len(reply.content.array_records) > 0:
        raise ConfigError(
            "the client must train with hqde_fl.clients.training, as that of ensemble_app does, "
            "found one that does not"
        )


class _PoisonError(Exception):
    """An exception of the fault's code on its way through the client's training."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@final
class _Poisoning(Poison):
    """A fault's change of batches, whose exceptions are raised as ``_PoisonError``."""

    def __init__(self, prepare: Callable[[TaskFacts], Change]) -> None:
        self._prepare = prepare
        self._change: Change | None = None
        self.begun = False

    def begin(self, task: Task, data: Dataset[Any], model: nn.Module) -> None:
        """Let the fault prepare its change of batches before a model is trained.

        The fault's exceptions become ``_PoisonError``; those of the model and data stay.
        """
        self.begun = True
        facts = TaskFacts(task, lambda: data, model)
        try:
            self._change = self._prepare(facts)
        except Exception as error:
            if error is facts.failure:  # raised by the client's model or data, its honest part
                raise
            raise _PoisonError(error) from error

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the changed batch."""
        assert self._change is not None
        try:
            return self._change(x, y)
        except Exception as error:
            raise _PoisonError(error) from error
