"""What the ``[[faults]]`` of an experiment stand for: who is faulty, how, and in which rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid

from hqde_fl.clients.faults import (
    FAULTS,
    FaultPlan,
    FaultyClients,
    Schedule,
    client_count,
    count_from_fraction,
    only_for,
)
from hqde_fl.clients.faults.backdoor import Backdoor
from hqde_fl.clients.faults.fault_errors import describe_error
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.protocol.screening import Screening
from hqde_fl.registry import Registry
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks import ATTACKS
from hqde_fl.simulations.attacks.adversary_grid import AdversaryGrid, Defence
from hqde_fl.simulations.engines.fault_error_grid import FaultErrorGrid
from hqde_fl.simulations.experiment.labels import WHO
from hqde_fl.simulations.experiment.overrides import check_component

WHEN = ("start", "stop", "resample")


@final
@dataclass(frozen=True)
class Faults:
    """All faults of a run.

    Parameters
    ----------
    tables : Sequence[Mapping[str, Any]]
        As the file has them: a name and its parameters, ``count`` or ``fraction`` of the clients
        or their ids (``clients``), and ``start``, ``stop``, ``resample``.
    clients : int
        How many clients there are.
    seed : int
        The run's seed.
    """

    tables: Sequence[Mapping[str, Any]]
    clients: int
    seed: int

    def check(self, engine: str) -> None:
        """Raise ``ConfigError`` unless these faults can act in such a run on such an engine."""
        for place, table in enumerate(self.tables):
            key = f"faults.{place}"
            check_component(_registry(table), _own(table), key, known=(*WHO, *WHEN))
            if len(given := [each for each in WHO if each in table]) != 1:
                raise ConfigError(
                    f"{key} needs one of {', '.join(WHO)}, found {' and '.join(given) or 'none'}"
                )
            if "clients" in table:
                _check_ids(f"{key}.clients", table["clients"])
            count = table.get("count", 0)
            if type(count) is not int or count < 0:
                raise ConfigError(f"{key}.count needs to be an integer >= 0, found {count!r}")
        if sum(self.counts) > self.clients:
            raise ConfigError(
                f"faults need {sum(self.counts)} clients in all, "
                f"found clients.count = {self.clients}"
            )
        attacks = [table for table in self.tables if table["name"] in list(ATTACKS)]
        if len(attacks) > 1:
            names = " and ".join(str(table["name"]) for table in attacks)
            raise ConfigError(f"faults may have one attack by colluding clients, found {names}")
        for count, table in zip(self.counts, self.tables, strict=True):
            if count and table in attacks:
                ATTACKS.build(_own(table)).check(self.clients, count)
            if count and table["name"] == "kill" and engine == "inline":
                raise ConfigError("fault 'kill' would end the server on engine 'inline': use 'ray'")
        _ = self.plan

    def check_task(self, task: Task) -> None:
        """Raise ``ConfigError`` unless these faults can act on a task.

        Only what they need to know is loaded: a model, and a few examples of the test set.
        """
        facts = TaskFacts(task, task.test)
        for count, table in zip(self.counts, self.tables, strict=True):
            if not count:
                continue
            try:
                _registry(table).build(_own(table)).check_task(facts)
            except ConfigError as error:
                raise ConfigError(_cannot_act(table, describe_error(str(error)))) from error
            except Exception as error:  # a model or a data set that cannot be looked at
                raise ConfigError(_cannot_act(table, describe_error(error))) from error

    @property
    def who(self) -> tuple[FaultyClients, ...]:
        """How many clients each fault has, or which."""
        return tuple(
            frozenset(table["clients"])
            if "clients" in table
            else table["count"]
            if "count" in table
            else count_from_fraction(table["fraction"], self.clients)
            for table in self.tables
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """How many clients each fault has."""
        return tuple(map(client_count, self.who))

    @cached_property
    def plan(self) -> FaultPlan:
        """Who has which fault when."""
        schedules = tuple(
            Schedule(**{key: table[key] for key in WHEN if key in table}) for table in self.tables
        )
        return FaultPlan(self.clients, Seeds(self.seed), self.who, schedules)

    def in_round(self, server_round: int) -> dict[int, str]:
        """Partition id -> name of its fault, for every client that is faulty in a round."""
        pairs = zip(self.tables, self.plan.faulty(server_round), strict=True)
        return {client: str(table["name"]) for table, who in pairs for client in sorted(who)}

    def mods(self) -> list[Mod]:
        """The local faults as Flower mods, each acting in its own clients only."""
        return [
            only_for(
                FAULTS.build(_own(table)), self.plan.choice_of(place), self.seed, str(table["name"])
            )
            for place, table in enumerate(self.tables)
            if table["name"] in list(FAULTS)
        ]

    def watched(self, grid: Grid) -> Grid:
        """The grid, on which a local fault that fails itself ends the run; itself without any."""
        if not any(table["name"] in list(FAULTS) for table in self.tables):
            return grid
        return FaultErrorGrid(grid, self._local_in_round)

    def _local_in_round(self, server_round: int) -> dict[int, str]:
        found = self.in_round(server_round)
        return {client: name for client, name in found.items() if name in list(FAULTS)}

    def adversary(self, grid: Grid, defence: Defence, screening: Screening) -> Grid:
        """The grid as colluding clients make it; the grid itself if nobody colludes."""
        for place, table in enumerate(self.tables):
            if table["name"] in list(ATTACKS) and self.counts[place]:
                return AdversaryGrid(
                    grid,
                    ATTACKS.build(_own(table)),
                    self.plan.choice_of(place),
                    defence=defence,
                    screening=screening,
                    seed=self.seed,
                )
        return grid

    @property
    def backdoor(self) -> Backdoor | None:
        """The backdoor that somebody tries to plant, if anybody does."""
        for count, table in zip(self.counts, self.tables, strict=True):
            if count and table["name"] == "backdoor":
                backdoor = FAULTS.build(_own(table))
                assert isinstance(backdoor, Backdoor)
                return backdoor
        return None


def _registry(table: Mapping[str, Any]) -> Registry[Any]:
    """Where a table's name is listed: among the attacks of colluding clients, or the faults."""
    name = table.get("name")
    if isinstance(name, str) and name not in (*FAULTS, *ATTACKS):
        raise UnknownNameError("fault", name, (*FAULTS, *ATTACKS))
    return ATTACKS if name in list(ATTACKS) else FAULTS


def _check_ids(key: str, found: Any) -> None:
    """Raise ``ConfigError`` unless these are different ids of clients."""
    ids = found if isinstance(found, list | tuple) else [None]
    if any(type(each) is not int for each in ids) or len(set(ids)) < len(ids):
        raise ConfigError(f"{key} needs to be a list of different integers, found {found!r}")


def _cannot_act(table: Mapping[str, Any], reason: str) -> str:
    return f"fault {table['name']!r} cannot act on this task: {reason}"


def _own(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table without what says who and when."""
    return {key: value for key, value in table.items() if key not in (*WHO, *WHEN)}
