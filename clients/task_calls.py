"""Call the functions of a task, and check what they return.

An exception in them, and a result that is not what it must be, is a ``TaskError`` of one line that
names the part of the task and the user's file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from hqde_fl.clients.batch_reader import TARGETS
from hqde_fl.clients.batches import BatchWithoutTargets
from hqde_fl.clients.task import Task
from hqde_fl.clients.user_code import defined_at, description, user_code
from hqde_fl.errors import TaskError
from hqde_fl.terminal_text import printable


def build_model(task: Task) -> nn.Module:
    """Return a new model of a task.

    Raises
    ------
    TaskError
        If ``Task.model`` raises an exception, or returns something else than a torch module.
    """
    return built_model("Task.model", task.model)


def built_model(part: str, function: Callable[[], Any]) -> nn.Module:
    """Return the model that a function builds; its errors name it ``part``.

    Raises
    ------
    TaskError
        If it raises an exception, or returns something else than a torch module.
    """
    with user_code(part, function):
        model = function()
    if not isinstance(model, nn.Module):
        hint = ""
        if model is None:
            hint = ": does the function return the model?"
        elif isinstance(model, type):
            hint = f": it has to return an object, as {model.__name__}() is"
        raise _wrong(f"{part} must return a torch module", model, function, hint)
    return model


def load_partition(
    task: Task, number: int, count: int, node_config: Mapping[str, Any] | None = None
) -> Dataset[Any]:
    """Return the data set of client ``number`` of ``count``; ``TaskError`` if it cannot be had.

    A ``Task.partition`` with a parameter ``node_config`` is given the configuration of the node
    that holds the data; without one, that of a simulated node.
    """
    return _load_of_client("Task.partition", task.partition, number, count, node_config)


def load_evaluation_set(
    task: Task, number: int, count: int, node_config: Mapping[str, Any] | None = None
) -> Dataset[Any]:
    """Return the data on which client ``number`` of ``count`` evaluates, as ``load_partition``."""
    if task.evaluation is None:
        return load_partition(task, number, count, node_config)
    return _load_of_client("Task.evaluation", task.evaluation, number, count, node_config)


def _load_of_client(
    part: str,
    function: Callable[..., Any],
    number: int,
    count: int,
    node_config: Mapping[str, Any] | None,
) -> Dataset[Any]:
    extra = {}
    with user_code(part, function):
        if takes_parameter(function, "node_config"):
            simulated = {"partition-id": number, "num-partitions": count}
            extra["node_config"] = dict(simulated if node_config is None else node_config)
        data = function(number, count, **extra)
    return _checked(part, data, function)


def takes_parameter(function: Callable[..., Any], parameter: str) -> bool:
    """Return True if a function has a parameter of that name; False if that cannot be known."""
    try:
        return parameter in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C
        return False


def load_test_set(task: Task) -> Dataset[Any]:
    """Return the test set of a task; ``TaskError`` if it cannot be had, or there is none."""
    if task.test is None:
        raise TaskError("the task has no test set on the server: it needs Task.test")
    with user_code("Task.test", task.test):
        data = task.test()
    return _checked("Task.test", data, task.test)


def load_validation_set(task: Task) -> Dataset[Any]:
    """Return the validation set of a task; ``TaskError`` if it cannot be had, or there is none."""
    if task.validation is None:
        raise TaskError("the task has no validation set: it needs Task.validation")
    with user_code("Task.validation", task.validation):
        data = task.validation()
    return _checked("Task.validation", data, task.validation)


def _checked(part: str, data: Any, function: Callable[..., Any]) -> Dataset[Any]:
    needed = f"{part} must return a map-style data set"
    if data is None:
        raise _wrong(needed, data, function, ": does the function return it?")
    if isinstance(data, IterableDataset) or not (
        hasattr(data, "__len__") and hasattr(data, "__getitem__")
    ):
        raise _wrong(f"{needed}, with __len__ and __getitem__", data, function)
    if isinstance(data, tuple | list) and data and isinstance(data[0], Dataset):
        raise _wrong(f"{needed}, the examples of one client", data, function, " of data sets")
    if isinstance(data, dict | Tensor | np.ndarray) or (
        isinstance(data, tuple) and any(isinstance(part, Tensor | np.ndarray) for part in data)
    ):
        hint = ": torch.utils.data.TensorDataset(x, y) makes one of tensors"
        if hasattr(data, "with_format"):  # datasets.DatasetDict
            hint = f" of {', '.join(map(repr, data))}: choose one"
        raise _wrong(needed, data, function, hint)
    return data  # type: ignore[no-any-return]


def batch_loss(task: Task, outputs: Any, targets: Any, *, trains: bool = False) -> Tensor:
    """Return the loss of a batch, a tensor with one number.

    Parameters
    ----------
    task : Task
        The task, whose loss is called.
    outputs, targets : Any
        The model's outputs and the batch's targets.
    trains : bool, default=False
        The loss must have a gradient.

    Raises
    ------
    TaskError
        If the loss raises an exception or returns something else.
    """
    part = "the loss"
    if isinstance(targets, BatchWithoutTargets):
        part = f"the loss, given the whole batch as no entry is {' or '.join(TARGETS)},"
    with user_code(part, task.loss, outputs=outputs, targets=targets):
        loss = task.loss(outputs, targets)
    if not isinstance(loss, Tensor):
        hint = ": does the function return it?" if loss is None else ""
        hint = ": without .item() or float()" if isinstance(loss, Real) else hint
        raise _wrong("the loss must return a tensor", loss, task.loss, hint)
    if loss.numel() != 1:
        hint = f" {description(loss)}: take the mean over the batch"
        raise _wrong("the loss must return one number", loss, task.loss, hint)
    if loss.is_complex():
        hint = f" {description(loss)}: .abs() or .real makes one of it"
        raise _wrong("the loss must return a real number", loss, task.loss, hint)
    if trains and not loss.requires_grad:
        raise TaskError(
            "the loss has no gradient: it must depend on weights of the model that are trained, "
            f"without .detach(), .item(), argmax or torch.no_grad() between{defined_at(task.loss)}"
        )
    return loss


def backward(loss: Tensor, task: Task) -> None:
    """Compute the gradient of a loss; ``TaskError`` if that raises an exception."""
    with user_code("the gradient of the loss", task.loss):
        loss.backward()


def metric_values(name: str, task: Task, outputs: Any, targets: Any) -> dict[str, float]:
    """Return the values of a task's metric on a batch by name; they may be NaN or infinite.

    A metric that returns one number has the value ``name``; one that returns a mapping has a value
    for each of its keys.

    Raises
    ------
    TaskError
        If the metric raises an exception, or returns something else than a number, a tensor or
        array of one, or a mapping from names to these.
    """
    metric = task.metrics[name]
    with user_code(f"metric {name!r}", metric, outputs=outputs, targets=targets):
        returned = metric(outputs, targets)
        values = dict(returned) if isinstance(returned, Mapping) else {name: returned}
    for key in values:
        if not isinstance(key, str) or not key or key == "loss":
            needed = f"metric {name!r} must return values by name, and none named 'loss'"
            raise _wrong(needed, key, metric)
    part = f"metric {name!r} must return one number"
    if isinstance(returned, Mapping):
        part = f"metric {name!r} must return one number for each name"
    return {key: _number(part, value, metric) for key, value in values.items()}


def _number(needed: str, value: Any, metric: Callable[..., Any]) -> float:
    if isinstance(value, Tensor | np.ndarray | np.generic) and _size(value) == 1:
        value = value.item()
    if not isinstance(value, Real | Decimal):
        hint = f" {description(value)}: take the mean over the batch"
        hint = hint if isinstance(value, Tensor | np.ndarray) else ""
        if value is None:
            hint = ": does the function return it?"
        raise _wrong(needed, value, metric, hint)
    return float(value)


def _size(value: Any) -> int:
    return int(value.numel() if isinstance(value, Tensor) else value.size)


def _wrong(needed: str, found: Any, function: Any, hint: str = "") -> TaskError:
    """Return the error of a function that returned something else than it must."""
    simple = found is None or isinstance(found, bool | int | float | str | type | list | tuple)
    shown = printable(repr(found), 80) if simple else ""
    if not simple or len(shown) > 60:
        shown = f"a {type(found).__name__}"
    return TaskError(f"{needed}, found {shown}{hint}{defined_at(function)}")
