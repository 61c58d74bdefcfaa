"""Tasks by name: the built-in tasks, and users' own tasks as ``module:attribute``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hqde_fl.clients.task import Task
from hqde_fl.clients.user_code import defined_at, user_code
from hqde_fl.errors import ConfigError
from hqde_fl.own_modules import import_attribute, is_own
from hqde_fl.registry import Registry
from hqde_fl.simulations import catalogue
from hqde_fl.simulations.tasks.adult import Adult
from hqde_fl.simulations.tasks.base import BuiltinTask
from hqde_fl.simulations.tasks.cifar import Cifar10, Cifar100
from hqde_fl.simulations.tasks.covertype import Covertype
from hqde_fl.simulations.tasks.digits import Digits
from hqde_fl.simulations.tasks.fashion_mnist import FashionMnist
from hqde_fl.simulations.tasks.femnist import Femnist
from hqde_fl.simulations.tasks.mnist import Mnist
from hqde_fl.simulations.tasks.partition import PARTITIONERS, Partitioner
from hqde_fl.simulations.tasks.shakespeare import Shakespeare
from hqde_fl.simulations.tasks.token_order import TokenOrder
from hqde_fl.terminal_text import printable

TASKS: Registry[BuiltinTask] = catalogue.TASKS

__all__ = [
    "PARTITIONERS",
    "TASKS",
    "Adult",
    "BuiltinTask",
    "Cifar10",
    "Cifar100",
    "Covertype",
    "Digits",
    "FashionMnist",
    "Femnist",
    "Mnist",
    "Partitioner",
    "Shakespeare",
    "TokenOrder",
    "load_task",
]


def load_task(
    table: Mapping[str, Any],
    partitioner_table: Mapping[str, Any],
    partitions: int,
    seed: int,
) -> Task:
    """Build the task that a configuration describes.

    Parameters
    ----------
    table : Mapping[str, Any]
        ``name`` and parameters, in kebab-case. The name is a key of ``TASKS``, or
        ``module:attribute`` or ``file.py:attribute`` of a ``Task`` or of a callable that returns
        one for ``attribute(partitions=..., seed=..., partition=partitioner_table, **parameters)``.
    partitioner_table : Mapping[str, Any]
        ``name`` and parameters of a partitioner in ``PARTITIONERS``.
    partitions : int
        Number of clients, >= 1.
    seed : int
        The run's seed.

    Raises
    ------
    ConfigError
        If there is no such task or partitioner, or it cannot be built from the parameters.
    """
    if partitions < 1:
        raise ConfigError(f"a task needs at least 1 partition, found {partitions}")
    name = table.get("name")
    if is_own(name):
        return _load(table, partitioner_table, partitions, seed)
    return TASKS.build(table).build(PARTITIONERS.build(partitioner_table), seed)


def _load(
    table: Mapping[str, Any], partitioner_table: Mapping[str, Any], partitions: int, seed: int
) -> Task:
    name = table["name"]
    value = import_attribute("task", name)
    arguments = {key.replace("-", "_"): table[key] for key in table if key != "name"}
    if isinstance(value, Task):
        if arguments:
            raise ConfigError(f"task {name!r} is a Task and takes no {', '.join(arguments)}")
        return value
    if not callable(value):
        raise ConfigError(f"task {name!r} must be a Task or return one, found {value!r}")
    run_arguments = {"partitions": partitions, "seed": seed, "partition": partitioner_table}
    if taken := sorted(arguments.keys() & run_arguments.keys()):
        raise ConfigError(f"task {name!r} gets {', '.join(taken)} from the run, not from its table")
    arguments |= run_arguments
    try:
        inspect.signature(value).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"task {name!r} cannot be called with {', '.join(arguments)}: {error}"
        ) from error
    with user_code(f"task {name!r}", value):
        task = value(**arguments)
    if not isinstance(task, Task):
        found = f"{printable(repr(task), 80)}{defined_at(value)}"
        raise ConfigError(f"task {name!r} must return a Task, found {found}")
    return task
