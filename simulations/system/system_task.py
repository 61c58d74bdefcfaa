"""The learning task of an ``HQDESystem``, before its data are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from hqde_fl.clients.batches import logits_of
from hqde_fl.clients.task import Task, accuracy
from hqde_fl.errors import ConfigError

LossFn = Callable[[Any, Any], Tensor]


def task_of(model: Callable[[], nn.Module], loss_fn: LossFn | None) -> Task:
    """Return a task with a model and a loss, whose data raise ``RuntimeError`` until replaced.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds the model.
    loss_fn : Callable, optional
        (outputs, targets) -> mean loss. If not given, or if it is torch's cross entropy, the model
        is a classifier.
    """
    usual = loss_fn is None or loss_fn is functional.cross_entropy
    classifier = usual or isinstance(loss_fn, nn.CrossEntropyLoss)
    return Task(
        model=partial(_module, model),
        partition=_no_data,
        test=_no_data,
        loss=partial(_loss, loss_fn or functional.cross_entropy, classifier),
        metrics={"accuracy": _accuracy} if classifier else {},
        classifier=classifier,
    )


def _module(model: Callable[[], nn.Module]) -> nn.Module:
    if not isinstance(built := model(), nn.Module):
        raise ConfigError(f"model_class needs to build a torch module, found {built!r:.60}")
    return built


def _loss(loss_fn: LossFn, classifier: bool, outputs: Any, targets: Any) -> Tensor:
    return loss_fn(logits_of(outputs) if classifier else outputs, targets)


def _accuracy(outputs: Any, targets: Tensor) -> float:
    return accuracy(logits_of(outputs), targets)


def _no_data(*_: Any) -> Any:
    raise RuntimeError("the data come with the loader")
