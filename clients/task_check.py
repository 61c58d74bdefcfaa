"""Look at a few examples of a task before it is trained: what fails there fails everywhere.

Nobody's random numbers change, and no model that is used later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from hqde_fl.clients.data_forms import example_total
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.initial_state import build_member
from hqde_fl.clients.objective import ATTACK_SUCCESS
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.scoring import NoTargetsError
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import load_partition, load_test_set, load_validation_set
from hqde_fl.clients.training import Training, train
from hqde_fl.clients.user_code import defined_at
from hqde_fl.errors import ConfigError, TaskError, UnknownNameError
from hqde_fl.prediction import EnsemblePredictor
from hqde_fl.seeding import Seeds
from hqde_fl.updates.roles import roles_of

MAX_EXAMPLES = 32
"""Largest number of examples to look at."""

MAX_PARTITIONS = 16
"""Largest number of partitions to load in search of one with examples."""


@contextmanager
def before_the_run(whose: str = "") -> Iterator[None]:
    """Make a ``ConfigError`` of a ``TaskError`` in the block: nothing has been started.

    That no label of a few examples counts says nothing of the others, and ends the block alone.

    Parameters
    ----------
    whose : str, optional
        Whose data the block looks at, such as "client 0", for the message.
    """
    try:
        yield
    except NoTargetsError:
        pass
    except TaskError as error:
        raise ConfigError(f"{whose}: {error}" if whose else str(error)) from error


def check_model(task: Task, seeds: Seeds) -> FreshModel:
    """Return a task's model after a check that it can be trained in a federation.

    Raises
    ------
    ConfigError
        If it cannot be built, or has an entry that cannot be carried, which the message names.
    """
    with before_the_run():
        fresh = FreshModel(partial(build_member, task, seeds, 0))
    roles_of(fresh.built)  # raises ConfigError
    return fresh


def check_test_set(
    task: Task, model: FreshModel, members: int = 1, predictor: EnsemblePredictor | None = None
) -> float:
    """Evaluate an ensemble on examples of the test set, and return the loss.

    Raises
    ------
    ConfigError
        If that fails, or none of the metrics is the task's primary one. The accuracy of a class may
        be missing in the examples.
    """
    with before_the_run("test set"), reproducible(0):
        data = load_test_set(task)
        if example_total(data) == 0:
            raise ConfigError("Task.test must return at least 1 example, found 0")
        loaded = model.load(model.built.state_dict())
        examples = sample(data, MAX_EXAMPLES)
        measured = evaluate([loaded] * members, examples, task, predictor=predictor)
        primary = task.objective.primary
        of_classes = tuple(f"{name}-" for name in task.metrics)
        if primary not in (*measured, ATTACK_SUCCESS) and not primary.startswith(of_classes):
            raise UnknownNameError("primary metric", primary, measured)
        return measured["loss"]
    return 0.0


def check_validation_set(
    task: Task, model: FreshModel, members: int = 1, predictor: EnsemblePredictor | None = None
) -> float:
    """Evaluate an ensemble on examples of the validation set, and return the loss.

    Raises ``ConfigError`` if that fails.
    """
    with before_the_run("validation set"), reproducible(0):
        data = load_validation_set(task)
        if example_total(data) == 0:
            raise ConfigError("Task.validation must return at least 1 example, found 0")
        loaded = model.load(model.built.state_dict())
        examples = sample(data, MAX_EXAMPLES)
        return evaluate([loaded] * members, examples, task, predictor=predictor)["loss"]
    return 0.0


def needs_validation(what: str) -> str:
    """Return the text of the error of something that needs a validation set."""
    return (
        f"{what} needs a validation set, found none: set task.validation to a fraction of the "
        "training data, such as 0.1, or give a task of your own the function Task.validation"
    )


def require_validation(task: Task, what: str) -> None:
    """Raise ``ConfigError`` unless a task has a validation set, which ``what`` needs."""
    if task.validation is None:
        raise ConfigError(needs_validation(what))


def check_clients(task: Task, model: FreshModel, training: Training, count: int) -> float:
    """Train the first client with examples on a batch of them, and return the loss.

    Clients with one example are passed over, as layers such as batch normalisation cannot train on
    one; the loss is 0 if there is no other. Buffers of the model change.

    Parameters
    ----------
    task : Task
        The task.
    model : FreshModel
        The task's model.
    training : Training
        The settings of training.
    count : int
        Number of all clients.

    Raises
    ------
    ConfigError
        If that fails.
    """
    sizes = []
    for number in range(min(count, MAX_PARTITIONS)):
        with before_the_run(f"client {number}"), reproducible(0):
            data = load_partition(task, number, count)
            sizes.append(example_total(data))
            if sizes[-1] > 1:
                return check_training(task, model, training, data)
    if not any(sizes) and len(sizes) == count:
        raise ConfigError(f"Task.partition has no examples for any of {count} clients")
    return 0.0


def check_finite(task: Task, *losses: float) -> None:
    """Raise ``ConfigError`` if no loss of the initial model is finite."""
    if not any(map(math.isfinite, losses)):
        raise ConfigError(
            f"the loss of the initial model is {losses[0]:g} on the test set and {losses[-1]:g} on "
            f"a client's data: is it right, and are they finite?{defined_at(task.loss)}"
        )


def check_training(task: Task, model: FreshModel, training: Training, data: Dataset[Any]) -> float:
    """Compute loss and gradient on a batch of a data set with examples, and return the loss.

    Buffers of the model change, weights do not. Raises ``TaskError`` if it fails.
    """
    batch = sample(data, min(training.batch_size, MAX_EXAMPLES))
    once = replace(training, epochs=1, steps=0)
    loaded = model.load(model.built.state_dict())
    with reproducible(0):
        generator = torch.Generator().manual_seed(0)
        return train(loaded, batch, task, once, generator, cast(Optimizer, _NoSteps(loaded)))


class _NoSteps:
    """An optimiser that leaves the weights as they are; torch's take a second to be imported."""

    def __init__(self, model: nn.Module) -> None:
        self.state: dict[Any, Any] = {}
        self.param_groups = [{"params": [*model.parameters()]}]  # of which DP-SGD has the weights
        self._model = model

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._model.zero_grad(set_to_none)

    def step(self) -> None:
        pass


def sample(data: Dataset[Any], size: int) -> Dataset[Any]:
    """Return at most ``size`` examples from all over a data set, always the same ones.

    They are chosen at random, as data sets may be sorted, or go round and round.
    """
    total = example_total(data)
    chosen = Seeds(0).numpy("sample").choice(total, min(size, total), replace=False)
    return data_subset(data, sorted(chosen.tolist()))
