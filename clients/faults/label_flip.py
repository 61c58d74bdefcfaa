"""Label flip: training on wrong labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from hqde_fl.clients.faults.base import Fault
from hqde_fl.clients.faults.poisoning import Change, train_poisoned
from hqde_fl.clients.label_checks import check_labels, ignored_label
from hqde_fl.clients.task_facts import TaskFacts, shape_of
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class LabelFlip(Fault):
    """The client trains on wrong labels: y becomes classes - 1 - y, or one constant.

    Labels are class numbers in a tensor of any shape and dtype; the label that the loss ignores
    (its ``ignore_index``) stays. With one score per target the classes are 0 and 1. Needs a client
    that trains with ``hqde_fl.clients.training``, as that of ``ensemble_app`` does.

    Parameters
    ----------
    classes : int, optional
        Number of classes, >= 2; the task's number if not given. A number that contradicts the task
        is refused before the run.
    to : int, optional
        The label that every example gets, in [0, classes). Without it the labels are reversed.
    keep : tuple of int, default=()
        Labels in [0, classes) that are not changed.
    """

    classes: int | None = None
    to: int | None = None
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.classes is not None:
            self._check(self.classes)

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the task has class labels that the fault can change.

        That needs at least 2 classes, a score for each, and one label at least that changes.
        """
        classes = facts.require_classes(self.classes)
        if facts.one_score and facts.task.classes is None:
            facts.require_two_classes()
        if not facts.one_score and facts.width is not None and facts.width < classes:
            raise ConfigError(
                f"the model must have a score for each of {classes} classes, found {facts.width}"
            )
        if facts.one_target_per_output and classes > 2:
            raise ConfigError(
                f"targets must be numbers of {classes} classes, found one for each output, of the "
                f"shape {shape_of(facts.labels)}"
            )
        self._check(classes)
        if all(self._new_label(label, classes) == label for label in range(classes)):
            raise ConfigError(f"a label must change, found that {self} keeps all {classes}")
        self._flip(facts.labels, classes, ignored_label(facts.task))

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return the reply of training on wrong labels."""
        return train_poisoned(message, context, call_next, self._prepare)

    def _check(self, classes: int) -> None:
        """Raise ``ConfigError`` unless ``to`` and ``keep`` are in [0, classes), classes >= 2."""
        if classes < 2:
            raise ConfigError(f"LabelFlip.classes must be >= 2, found {classes}")
        if self.to is not None and not 0 <= self.to < classes:
            raise ConfigError(f"LabelFlip.to must be in [0, {classes}), found {self.to}")
        for label in self.keep:
            if not 0 <= label < classes:
                raise ConfigError(
                    f"LabelFlip.keep must hold labels in [0, {classes}), found {label}"
                )

    def _prepare(self, facts: TaskFacts) -> Change:
        """Return the function that replaces the labels of a client's batches by wrong ones."""
        classes = facts.require_classes() if self.classes is None else self.classes
        self._check(classes)
        ignored = ignored_label(facts.task)

        def flip(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x, self._flip(y, classes, ignored)

        return flip

    def _flip(self, y: Tensor, classes: int, ignored: int) -> Tensor:
        """Return wrong labels for y; ``keep`` and the ignored label stay.

        In the dtype of y, or int64 if y's integers cannot hold every class. Raises ``ConfigError``
        for a label that is neither a class number nor ``ignored``.
        """
        check_labels(y, classes, ignored, f"LabelFlip(classes={classes})")
        labels = y.to(torch.int64)
        new = torch.full_like(labels, self.to) if self.to is not None else classes - 1 - labels
        kept = torch.tensor([*self.keep, ignored], device=labels.device)
        new = torch.where(torch.isin(labels, kept), labels, new)
        integer = not (y.is_floating_point() or y.dtype == torch.bool)
        return new if integer and torch.iinfo(y.dtype).max < classes - 1 else new.to(y.dtype)

    def _new_label(self, label: int, classes: int) -> int:
        if label in self.keep:
            return label
        return self.to if self.to is not None else classes - 1 - label
