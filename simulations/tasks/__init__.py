"""Tasks by name: the built-in ones, and ``module:attribute`` for the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.registry import Registry
from hqde_fl.simulations.experiment.own_modules import import_attribute
from hqde_fl.simulations.tasks.base import BuiltinTask
from hqde_fl.simulations.tasks.digits import Digits
from hqde_fl.simulations.tasks.fashion_mnist import FashionMnist
from hqde_fl.simulations.tasks.partition import PARTITIONERS, Partitioner

TASKS: Registry[BuiltinTask] = Registry(
    "task",
    BuiltinTask,  # type: ignore[type-abstract]
    {"digits": Digits, "fashion-mnist": FashionMnist},
)

__all__ = [
    "PARTITIONERS",
    "TASKS",
    "BuiltinTask",
    "Digits",
    "FashionMnist",
    "Partitioner",
    "load_task",
]


def load_task(
    table: Mapping[str, Any],
    partitioner_table: Mapping[str, Any],
    partitions: int,
    seed: int,
) -> Task:
    """The task that a configuration describes.

    Parameters
    ----------
    table : Mapping[str, Any]
        ``name`` and parameters, in kebab-case. The name is one of ``TASKS``, or
        ``module:attribute``: a ``Task``, or what is called as ``attribute(partitions=...,
        seed=..., partition=partitioner_table, **parameters)`` and returns one.
    partitioner_table : Mapping[str, Any]
        ``name`` and parameters of one of ``PARTITIONERS``.
    partitions : int
        The number of clients, >= 1.
    seed : int
        The run's seed.

    Raises
    ------
    ConfigError
        If there is no such task or partitioner, or if it cannot be built from these parameters.
    """
    if partitions < 1:
        raise ConfigError(f"a task needs at least 1 partition, found {partitions}")
    name = table.get("name")
    if isinstance(name, str) and ":" in name:
        return _load(table, partitioner_table, partitions, seed)
    return TASKS.build(table).build(PARTITIONERS.build(partitioner_table), seed)


def _load(
    table: Mapping[str, Any], partitioner_table: Mapping[str, Any], partitions: int, seed: int
) -> Task:
    name = table["name"]
    found = import_attribute("task", name)
    arguments = {key.replace("-", "_"): table[key] for key in table if key != "name"}
    if isinstance(found, Task):
        if arguments:
            raise ConfigError(f"task {name!r} is a Task and takes no {', '.join(arguments)}")
        return found
    if not callable(found):
        raise ConfigError(f"task {name!r} must be a Task or return one, found {found!r}")
    given = {"partitions": partitions, "seed": seed, "partition": partitioner_table}
    if taken := sorted(arguments.keys() & given.keys()):
        raise ConfigError(f"task {name!r} gets {', '.join(taken)} from the run, not from its table")
    arguments |= given
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"task {name!r} cannot be called with {', '.join(arguments)}: {error}"
        ) from error
    task = found(**arguments)
    if not isinstance(task, Task):
        raise ConfigError(f"task {name!r} must return a Task, found {task!r}")
    return task
