"""The base class of backdoors that a client plants by training on poisoned batches."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.batches import Batch, Collate
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.faults.backdoor_base import (
    BATCH_SIZE,
    BackdoorFault,
    Watch,
    images_of,
    with_entry,
)
from hqde_fl.clients.faults.base import State, with_changed_state
from hqde_fl.clients.faults.poisoning import Change, train_poisoned
from hqde_fl.clients.faults.scaling import scale_update
from hqde_fl.clients.message_fields import partition_of
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError, DataError


class PoisonedData(BackdoorFault):
    """A backdoor that is learnt from poisoned batches; its update is multiplied by ``scale``."""

    target: int
    poisoned: float
    scale: float

    @abstractmethod
    def poison(self, facts: TaskFacts, client: int) -> Change:
        """Return the change of a client's batches.

        Parameters
        ----------
        facts : TaskFacts
            The client's task, data and model.
        client : int
            Its partition id.
        """

    @final
    def train(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        watch: Watch | None = None,
    ) -> Message:
        """Return the reply of training on poisoned batches, its update multiplied by ``scale``."""
        client, _ = partition_of(context)

        def prepare(facts: TaskFacts) -> Change:
            change = self.poison(facts, client)
            if watch is None:
                return change
            before_batch = watch(facts.model)

            def watched(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
                before_batch()
                return change(x, y)

            return watched

        reply = train_poisoned(message, context, call_next, prepare)
        if self.scale == 1:
            return reply

        def scale(start: State, trained: State) -> State:
            return scale_update(start, trained, self.scale)

        return with_changed_state(message, reply, scale)

    def check_numbers(self) -> None:
        """Raise ``ConfigError`` unless ``poisoned`` and ``scale`` are in their bounds."""
        name = type(self).__name__
        if not 0 < self.poisoned <= 1:
            raise ConfigError(f"{name}.poisoned must be in (0, 1], found {self.poisoned}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"{name}.scale must be finite and > 0, found {self.scale}")

    def count(self, y: Tensor) -> int:
        """Return the number of a batch's examples to poison, at least one.

        Batches are shuffled, so that these may be the first ones.
        """
        return min(len(y), max(1, round(self.poisoned * len(y))))

    def poison_first(
        self, x: Any, y: Tensor, poisoned: Callable[[Tensor], Tensor]
    ) -> tuple[Any, Tensor]:
        """Return a batch the first images of which are replaced and have the target's label.

        Parameters
        ----------
        x, y : Any, Tensor
            The inputs, one of them images, and the labels (n,) of the batch.
        poisoned : Callable[[Tensor], Tensor]
            Returns what takes the place of the first ``count(y)`` images.
        """
        images, count, labels = images_of(self, x), self.count(y), y.clone()
        labels[:count] = self.target
        changed = torch.cat([poisoned(images[:count]), images[count:]])
        return with_entry(x, images, changed), labels


def examples_with(
    data: Dataset[Any],
    model: nn.Module,
    collate: Collate | None,
    chosen: Callable[[Batch], Tensor],
    missing: str,
) -> Iterator[Batch]:
    """Yield the chosen examples of a data set, in batches of their own.

    Parameters
    ----------
    data : Dataset
        The examples.
    model : nn.Module
        The model that the batches are for.
    collate : Callable or None
        Makes a batch of a list of examples; torch's default if None.
    chosen : Callable[[Batch], Tensor]
        Tells for each example (n,) of a batch whether it is chosen.
    missing : str
        The message of the ``DataError`` that is raised if none is.
    """
    masks = [
        chosen(batch).cpu() for batch in iterate_batches(data, BATCH_SIZE, model, None, collate)
    ]
    indices = torch.cat(masks).nonzero()[:, 0].tolist()
    if not indices:
        raise DataError(missing)
    yield from iterate_batches(data_subset(data, indices), BATCH_SIZE, model, None, collate)


def relabelled(batch: Batch, inputs: Any, target: int) -> Batch:
    """Return a batch with other inputs, and one label for all examples."""
    return replace(batch, inputs=inputs, targets=torch.full_like(batch.targets, target))
