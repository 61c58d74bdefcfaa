"""The learning task of an ``HQDESystem``, before its data are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from hqde_fl.clients.class_scores import is_class_loss
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import built_model

LossFn = Callable[[Any, Any], Tensor]


def task_of(
    model: Callable[[], nn.Module],
    loss_fn: LossFn | None,
    class_axis: int | None = None,
    ignore_index: int | None = None,
) -> Task:
    """Return a task with a model and a loss, whose data raise ``RuntimeError`` until replaced.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds the model.
    loss_fn : Callable, optional
        (outputs, targets) -> mean loss. If not given, or if it is torch's cross entropy or negative
        log likelihood, the model is a classifier.
    class_axis, ignore_index : int, optional
        The fields of ``Task``.
    """
    loss = functional.cross_entropy if loss_fn is None else loss_fn
    return Task(
        model=partial(built_model, "model_class", model),
        partition=_no_data,
        test=_no_data,
        loss=loss,
        classifier=is_class_loss(loss),
        class_axis=class_axis,
        ignore_index=ignore_index,
    )


def _no_data(*_: Any) -> Any:
    raise RuntimeError("the data come with the loader")
