"""The loss and the metrics of a task in one pass over batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from hqde_fl.clients.batches import logits_of
from hqde_fl.clients.class_scores import ClassAxis, ClassScores, ignore_index_of, is_class_loss
from hqde_fl.clients.label_checks import ignored_label
from hqde_fl.clients.model_outputs import with_logits
from hqde_fl.clients.task import CLASS_METRICS, Task, accuracy, accuracy_error
from hqde_fl.clients.task_calls import batch_loss, metric_values
from hqde_fl.errors import TaskError

BROADCAST_TOLERANCE = 1e-5
"""Relative difference of two values that count as equal."""

MOVED_TOLERANCE = 1e-3
"""The same for outputs in another order, as a part of the difference that their shape makes."""


class NoTargetsError(TaskError):
    """None of the targets counts: all are the ignored label."""

    def __init__(self, task: Task) -> None:
        label = ignored_label(task)
        super().__init__(f"every target is {label}, the ignore_index, and none counts")

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskError, (str(self),)


@final
class Scoring:
    """Calls a task's loss and metrics with what they take, in one pass over batches.

    Torch's cross entropy and negative log likelihood get the scores, also those in ``logits``, with
    the axis of the classes at 1, and targets as int64. So do the metrics ``accuracy`` and
    ``class_accuracy``. The user's own functions get outputs and targets as they are. A loss with
    tensors of its own, such as weights of classes, is moved to the device of the targets.

    Parameters
    ----------
    task : Task
        The loss, the metrics, and where the classes are.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._axis = ClassAxis(task.class_axis)
        self._has_class_loss = is_class_loss(task.loss)
        self._ignored = ignored_label(task)
        self._checked: set[str] = set()
        self._loss_with_tensors = _with_tensors(task.loss)

    def weight(self, targets: Any, size: int) -> int:
        """Return what a batch of ``size`` examples weighs in a mean over a data set.

        It is the number of class numbers that are not the ignored label, as torch's losses take
        their mean over these; ``size`` for other targets.
        """
        if not self._task.classifier or not isinstance(targets, Tensor):
            return size
        if type(targets) is Tensor and targets.dtype is torch.int64 and targets.is_cpu:
            return int(np.count_nonzero(targets.numpy() != self._ignored))  # half the time
        if targets.is_floating_point() or targets.is_complex():
            return size
        return int(torch.count_nonzero(targets.long() != self._ignored))

    def loss(self, outputs: Any, targets: Any, *, trains: bool = False) -> Tensor:
        """Return the loss of a batch; with ``trains`` it must have a gradient.

        Raises
        ------
        TaskError
            If the loss raises an exception, returns something else than one number, or would
            compare every output with every target because one of them has an axis more.
        """
        if self._loss_with_tensors is not None and isinstance(targets, Tensor):
            self._loss_with_tensors.to(targets.device)
        if self._has_class_loss:
            outputs, targets = self._class_loss_arguments(logits_of(outputs), targets)
            return batch_loss(self._task, outputs, targets, trains=trains)
        self._check_broadcast("the loss", self._task.loss, outputs, targets)
        return batch_loss(self._task, outputs, targets, trains=trains)

    def metric(
        self, name: str, outputs: Any, targets: Any, classes: ClassScores | None = None
    ) -> dict[str, float]:
        """Return the values of a metric on a batch by name; none of ``class_accuracy``.

        Parameters
        ----------
        name : str
            The metric, one of the task's.
        outputs, targets : Any
            The outputs and the targets.
        classes : ClassScores, optional
            What ``class_scores`` returns for them.
        """
        metric = self._task.metrics[name]
        if metric not in CLASS_METRICS:
            self._check_broadcast(f"metric {name!r}", metric, outputs, targets)
            return metric_values(name, self._task, outputs, targets)
        if classes is None:
            raise accuracy_error(logits_of(outputs), targets)
        return {name: classes.accuracy} if metric is accuracy else {}

    def class_scores(self, outputs: Any, targets: Any) -> ClassScores | None:
        """Return the class scores of a batch; None if the outputs are no scores of classes.

        Where the targets are probabilities, the most probable class is the true one.
        """
        scores = logits_of(outputs)
        if self._has_class_loss and _are_probabilities(scores, targets):
            targets = targets.argmax(dim=self._probability_axis(scores), keepdim=True)
        return self._axis.class_scores(scores, targets, self._ignored)

    def _class_loss_arguments(self, scores: Any, targets: Any) -> tuple[Any, Any]:
        """Return scores with the classes on axis 1, and the targets that torch's losses take."""
        if not isinstance(scores, Tensor) or not isinstance(targets, Tensor):
            return scores, targets
        if _are_probabilities(scores, targets):
            axis = self._probability_axis(scores)
            return scores.movedim(axis, 1), targets.movedim(axis, 1)
        if self._axis.stated is not None or not _are_plain(scores, targets):
            scores, targets = self._rows_or_channels(scores, targets)
        if self._ignored != (own := ignore_index_of(self._task.loss)):
            targets = targets.masked_fill(targets == self._ignored, own)
        return scores, targets

    def _rows_or_channels(self, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (n, classes, ...) or one row for each place, and targets as int64."""
        axis = self._axis.find(scores, targets)
        if axis is None or targets.is_floating_point():
            raise TaskError(
                "cross entropy needs class scores (n, classes, ...) or (n, ..., classes) and whole "
                f"numbers (n, ...) as targets, found outputs {tuple(scores.shape)} and targets "
                f"{tuple(targets.shape)} of {str(targets.dtype).removeprefix('torch.')}"
            )
        if axis > 1:  # places as rows: for torch's mean the same, and faster
            scores, targets = scores.movedim(axis, -1).flatten(0, -2), targets.flatten()
        return scores, targets.reshape(len(scores), *scores.shape[2:]).long()

    def _probability_axis(self, scores: Tensor) -> int:
        return 1 if self._axis.stated is None else self._axis.stated % scores.ndim

    def _check_broadcast(
        self, part: str, function: Callable[[Any, Any], Any], outputs: Any, targets: Any
    ) -> None:
        """Raise ``TaskError`` if a loss or metric compares every output with every target.

        Torch does that, without an error, where the shapes differ by an axis of size one. Such a
        function has another value for outputs in the shape of the targets, and none of its values
        depends on which output belongs to which target. That is tried once in a pass.
        """
        values = logits_of(outputs)
        if not isinstance(values, Tensor) or not isinstance(targets, Tensor):
            return
        if part in self._checked:
            return
        if values.shape == targets.shape or _without_ones(values) != _without_ones(targets):
            return
        # equal targets, as of a single example, would hide the difference
        if bool((targets != targets.flatten()[:1]).any()):
            self._checked.add(part)
        generator = torch.Generator().manual_seed(0)
        probe = torch.rand(values.shape, generator=generator).to(values)
        for tried in (probe, values.detach()):  # not every function takes any numbers
            found = _tried(function, outputs, tried, targets)
            aligned = _tried(function, outputs, tried.reshape(targets.shape), targets)
            if math.isnan(found) or math.isnan(aligned):
                continue
            if math.isclose(found, aligned, rel_tol=BROADCAST_TOLERANCE, abs_tol=1e-12):
                continue
            moved = _tried(function, outputs, tried.roll(1, 0), targets)
            if not abs(found - moved) <= MOVED_TOLERANCE * abs(found - aligned):
                continue  # it pairs outputs and targets in a way of its own
            raise TaskError(
                f"{part} compares every output with every target, found outputs "
                f"{tuple(values.shape)} for targets {tuple(targets.shape)}: they must have one "
                f"shape{_squeezed(values, targets)}"
            )


def _tried(
    function: Callable[[Any, Any], Any], outputs: Any, values: Tensor, targets: Tensor
) -> float:
    """Return a function's value for outputs with other values; NaN if there is none.

    Random numbers that it draws are those that it would draw now, and will draw again.
    """
    with (
        torch.no_grad(),
        torch.random.fork_rng([values.device] if values.is_cuda else []),
        warnings.catch_warnings(action="ignore"),
        suppress(Exception),
    ):
        return float(function(with_logits(outputs, values), targets))
    return math.nan


def _with_tensors(loss: Any) -> nn.Module | None:
    """Return a loss that is a module with parameters or buffers; None for any other."""
    if not isinstance(loss, nn.Module) or not [*loss.buffers(), *loss.parameters()]:
        return None
    return loss


def _are_probabilities(scores: Any, targets: Any) -> bool:
    """Return True if targets give a probability for each score."""
    if not isinstance(scores, Tensor) or not isinstance(targets, Tensor):
        return False
    return targets.is_floating_point() and targets.shape == scores.shape and scores.ndim > 1


def _are_plain(scores: Tensor, targets: Tensor) -> bool:
    """Return True for scores (n, classes) of classes (n,), as torch's losses take them."""
    return (
        scores.ndim == 2
        and targets.shape == scores.shape[:1]
        and targets.dtype is torch.int64
        and scores.shape[1] > 1
    )


def _without_ones(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def _squeezed(outputs: Tensor, targets: Tensor) -> str:
    """Return how outputs and targets get one shape, as text."""
    if abs(outputs.ndim - targets.ndim) != 1:
        return ""
    longer, shorter = outputs.shape, targets.shape
    names = ("outputs", "targets")
    if len(longer) < len(shorter):
        longer, shorter, names = shorter, longer, ("targets", "outputs")
    axis = next(k for k, size in enumerate((*shorter, 0)) if size != longer[k])
    return f", as by {names[0]}.squeeze({axis}) or {names[1]}.unsqueeze({axis})"
