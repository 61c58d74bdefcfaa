"""Division of the data among honest clients only, as most published robustness experiments do."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import takes_parameter
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.faults import Faults
from hqde_fl.simulations.experiment.sections import ClientsSection

KEY = "clients.divide-among"


def check_honest_division(faults: Faults, clients: ClientsSection) -> None:
    """Raise ``ConfigError`` if it is not known before the run who is honest, or nobody is."""
    if clients.registered:
        raise ConfigError(f"{KEY} = 'honest' needs a clients.count, found 'registered'")
    for fault in faults.faults:
        if fault.schedule.resample:
            raise ConfigError(
                f"{KEY} = 'honest' needs faults that keep their clients, found {fault.name!r} with "
                "resample = true"
            )
    if (faulty := sum(fault.count for fault in faults.faults)) >= clients.count:
        raise ConfigError(
            f"{KEY} = 'honest' needs an honest client, found {faulty} faulty ones "
            f"of {clients.count}"
        )


def divided_among_honest(task: Task, faulty: Collection[int], clients: int) -> Task:
    """Return a task whose data are divided among the honest clients.

    A faulty client has the same examples as an honest one: the first faulty client those of the
    first honest client, and so on.

    Parameters
    ----------
    task : Task
        The task.
    faulty : Collection[int]
        The partition ids of the faulty clients, fewer than ``clients``.
    clients : int
        Number of all clients.

    Raises
    ------
    ConfigError
        If the nodes of the clients hold their data, which are then divided already.
    """
    if takes_parameter(task.partition, "node_config"):
        raise ConfigError(
            f"{KEY} = 'honest' needs data that hqde-fl divides, found a task whose data are on the "
            "nodes (its partition takes node_config)"
        )
    honest = [client for client in range(clients) if client not in faulty]
    parts = {client: part for part, client in enumerate(honest)}
    parts |= {client: part % len(honest) for part, client in enumerate(sorted(faulty))}
    return replace(
        task,
        partition=partial(_part_of, task.partition, parts, len(honest)),
        evaluation=task.evaluation and partial(_part_of, task.evaluation, parts, len(honest)),
    )


def _part_of(
    divide: Callable[[int, int], Dataset[Any]],
    parts: dict[int, int],
    count: int,
    client: int,
    clients: int,
) -> Dataset[Any]:
    """Return the part of a client; the number of all clients is not that of the parts."""
    return divide(parts[client], count)
