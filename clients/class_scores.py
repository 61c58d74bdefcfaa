"""The axis of a classifier's outputs with its class scores, and the targets that count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from logging import WARNING
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.protocol.flower_internals import log

DEFAULT_IGNORE_INDEX = -100
"""The label that torch's losses ignore by default."""

CLASS_LOSSES = (functional.cross_entropy, functional.nll_loss)
CLASS_LOSS_MODULES = (nn.CrossEntropyLoss, nn.NLLLoss)


def is_class_loss(loss: Any) -> bool:
    """Return True if a loss is torch's cross entropy or negative log likelihood, with any options.

    These take scores (n, classes, ...) for targets (n, ...).
    """
    while isinstance(loss, partial):
        loss = loss.func
    return isinstance(loss, CLASS_LOSS_MODULES) or any(loss is known for known in CLASS_LOSSES)


def ignore_index_of(loss: Any) -> int:
    """Return the ``ignore_index`` of a loss; torch's default if the loss states none."""
    if isinstance(loss, partial) and "ignore_index" in loss.keywords:
        return int(loss.keywords["ignore_index"])
    return int(getattr(loss, "ignore_index", DEFAULT_IGNORE_INDEX))


@final
@dataclass(frozen=True, eq=False)
class ClassScores:
    """The class scores of a batch's outputs, one row for each place that has a target.

    Parameters
    ----------
    scores : Tensor
        (places, classes); the places are those of the targets, in their order.
    labels : Tensor
        (places,) true classes.
    counted : Tensor or None
        (places,) False where the label is the ignored one; None if all labels count.
    shape : tuple[int, ...]
        The shape of the targets without an axis for the classes: (n, ...).
    axis : int
        The axis of the classes in the outputs.
    """

    scores: Tensor
    labels: Tensor
    counted: Tensor | None
    shape: tuple[int, ...]
    axis: int

    @property
    def accuracy(self) -> float:
        """The fraction of counted places whose largest score is that of the true class."""
        correct = self.select(self.scores.argmax(dim=1)) == self.select(self.labels)
        return float(correct.float().mean())

    @property
    def class_numbers(self) -> Tensor:
        """The labels that count; ``TaskError`` unless each is the number of a score."""
        labels, classes = self.select(self.labels), self.scores.shape[1]
        outside = (labels < 0) | (labels >= classes)
        if bool(outside.any()):
            raise TaskError(
                f"targets must be in [0, {classes}) for {classes} class scores, found "
                f"{int(labels[outside][0])}: ignore_index states a label that does not count"
            )
        return labels

    def select(self, values: Tensor) -> Tensor:
        """Return the rows of values (places, ...) whose label counts."""
        return values if self.counted is None else values[self.counted]

    def in_outputs_shape(self, values: Tensor) -> Tensor:
        """Return values (places, classes) in the shape of the model's outputs."""
        return with_class_axis(values, self.shape, self.axis)


@final
class ClassAxis:
    """Finds the axis with the class scores in the outputs of one pass over batches.

    Outputs have the shape of their targets and one axis more: axis 1 as torch has it, (n, classes,
    ...) for targets (n, ...), or the last one, (n, ..., classes). Where both fit, that of earlier
    batches counts, and else axis 1, which is said once in the log. Targets may also have an axis of
    size one for the classes, or be those of flattened outputs (n t, classes).

    Parameters
    ----------
    stated : int, optional
        The axis that the user states as ``class_axis``; negative numbers count from the end.
    """

    def __init__(self, stated: int | None = None) -> None:
        self.stated = stated
        self._found: int | None = None

    def find(self, scores: Any, targets: Any) -> int | None:
        """Return the axis with the class scores, >= 1; None if these are no scores of classes.

        Raises
        ------
        ConfigError
            If the stated axis does not fit, or an earlier batch had its scores along another axis.
        """
        if not isinstance(scores, Tensor) or not isinstance(targets, Tensor):
            return None
        last = scores.ndim - 1
        if last < 1 or not targets.ndim:
            return None
        if self.stated is not None:
            return self._stated_axis(scores, targets)
        fitting = [axis for axis in dict.fromkeys((1, last)) if _fits(scores, targets, axis)]
        if not fitting:
            return None
        if last == 1:
            return 1
        if len(fitting) == 2:
            if self._found is None:
                _log_choice(scores, targets)
            axis = 1 if self._found is None else self._found
        else:
            axis = 1 if fitting[0] == 1 else -1
        if self._found not in (None, axis):
            raise ConfigError(
                f"outputs {tuple(scores.shape)} for targets {tuple(targets.shape)} have their "
                f"class scores along axis {axis % scores.ndim}, those of an earlier batch along "
                f"axis {self._found}: class_axis = 1 or -1 has to say where they are"
            )
        self._found = axis
        return axis % scores.ndim

    def _stated_axis(self, scores: Tensor, targets: Tensor) -> int:
        assert self.stated is not None
        axis = self.stated % scores.ndim if -scores.ndim < self.stated < scores.ndim else 0
        if axis and _fits(scores, targets, axis):
            return axis
        raise ConfigError(
            f"class_axis = {self.stated} does not fit outputs {tuple(scores.shape)} for targets "
            f"{tuple(targets.shape)}: without that axis the outputs must have the targets' shape"
        )

    def class_scores(self, scores: Any, targets: Any, ignored: int) -> ClassScores | None:
        """Return the class scores of a batch, or None if its outputs are no scores of classes.

        Parameters
        ----------
        scores, targets : Any
            The model's outputs, or their logits, and the batch's targets: class numbers.
        ignored : int
            The label that does not count.
        """
        axis = self.find(scores, targets)
        if axis is None:
            return None
        labels = targets.reshape(-1).long()
        counted = labels != ignored
        rows, shape = without_class_axis(scores, axis)
        return ClassScores(rows, labels, None if bool(counted.all()) else counted, shape, axis)


def without_class_axis(scores: Tensor, axis: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return class scores as rows (places, classes), and the shape of the places."""
    rows = scores.movedim(axis, -1).flatten(0, -2)
    return rows, (*scores.shape[:axis], *scores.shape[axis + 1 :])


def with_class_axis(rows: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Return rows (places, classes) with the places in a shape and the classes on an axis."""
    return rows.reshape(*shape, rows.shape[-1]).movedim(-1, axis)


def check_class_axis(name: str, axis: Any) -> None:
    """Raise ``ConfigError`` unless a stated class axis is None or a whole number other than 0."""
    if axis is not None and (not isinstance(axis, int) or isinstance(axis, bool) or axis == 0):
        raise ConfigError(
            f"{name} must be a whole number other than 0, the examples' axis, found {axis!r}"
        )


def _fits(scores: Tensor, targets: Tensor, axis: int) -> bool:
    """Return True if outputs are scores of at least two classes along an axis for their targets."""
    if scores.shape[axis] < 2:
        return False
    before, after = scores.shape[:axis], scores.shape[axis + 1 :]
    if targets.shape in (before + after, before + torch.Size([1]) + after):
        return True
    return scores.ndim == 2 and targets.numel() == len(scores)


_choice_logged: set[str] = set()


def _log_choice(scores: Tensor, targets: Tensor) -> None:
    """Log, once in a process, that outputs could be read in two ways, and how they are read."""
    if not _choice_logged:
        _choice_logged.add(f"outputs {tuple(scores.shape)} for targets {tuple(targets.shape)}")
        log(
            WARNING,
            "%s may hold their class scores along axis 1 or the last one: axis 1 counts, as in "
            "torch; class_axis = -1 states the last one",
            *_choice_logged,
        )
