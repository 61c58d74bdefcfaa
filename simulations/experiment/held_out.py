"""Set test examples aside, by which the server judges the clients' models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sized
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.initial_state import build_member
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import load_test_set
from hqde_fl.errors import ConfigError
from hqde_fl.own_modules import import_attribute, is_own, own_code
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.confidence import HeldOut

Measure = Callable[[nn.Module, Dataset[Any], Task], float]
"""Function (model, data, task) -> quality of the model on the data, in [0, 1]."""


def measure_named(name: str) -> Measure:
    """Return the function ``module:function``, whose result is brought into [0, 1]; NaN becomes 0.

    Raises
    ------
    ConfigError
        If there is no such function. ``TaskError`` when it is called and raises an exception.
    """
    if not is_own(name):
        raise ConfigError(
            f"strategy.held-out-measure needs module:function or FILE.py:function, found {name!r}"
        )
    function = import_attribute("held-out measure", name)
    if not callable(function) or isinstance(function, type):
        raise ConfigError(
            f"held-out measure {name!r} must be a function (model, data, task) -> number, "
            f"found {type(function).__name__}"
        )

    def measure(model: nn.Module, data: Dataset[Any], task: Task) -> float:
        with own_code(f"held-out measure {name!r}"), torch.no_grad():
            quality = float(function(model, data, task))
        return 0.0 if math.isnan(quality) else min(1.0, max(0.0, quality))

    return measure


def certainty(model: nn.Module, data: Dataset[Any], task: Task) -> float:
    """Return e^(-mean loss) of a model; 1 for a negative loss, 0 for one that is not finite."""
    loss = evaluate([model], data, task)["loss"]
    return math.exp(-max(0.0, loss)) if math.isfinite(loss) else 0.0


def set_aside(
    task: Task, count: int, seeds: Seeds, key: str = "held-out"
) -> tuple[Task, Dataset[Any]]:
    """Set some of a task's test examples aside.

    Parameters
    ----------
    task : Task
        Task whose test set is divided at random.
    count : int
        Number of examples to set aside.
    seeds : Seeds
        The run's seeds.
    key : str, default="held-out"
        The key of ``strategy`` that asks for them; different keys draw independently.

    Returns
    -------
    Task
        The task with the examples that are left as its test set.
    Dataset
        The examples set aside.

    Raises
    ------
    ConfigError
        If no example would be left to test with.
    """
    data = load_test_set(task)
    size = len(cast(Sized, data))
    if count >= size:
        raise ConfigError(f"strategy.{key} must be < {size} (the test set), found {count}")
    order = seeds.numpy(key).permutation(size).tolist()
    aside, rest = (data_subset(data, sorted(part)) for part in (order[:count], order[count:]))
    return dataclasses.replace(task, test=lambda: rest), aside


def judge(
    task: Task, examples: Dataset[Any], seeds: Seeds, measure: Measure = certainty
) -> HeldOut:
    """Return the function (a model's state dict) -> its quality on examples, by ``measure``."""
    model = FreshModel(partial(build_member, task, seeds, 0))

    def confidence(state: Mapping[str, Tensor]) -> float:
        with reproducible(0, 1):
            return measure(model.load(state), examples, task)

    return confidence
