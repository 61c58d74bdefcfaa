"""The ``[[faults]]`` of an experiment: the faulty clients, their faults, and the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, final

from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid

from hqde_fl.clients.faults import (
    FAULTS,
    Fault,
    FaultPlan,
    FaultSchedule,
    FaultyClients,
    client_count,
    count_from_fraction,
    only_for,
)
from hqde_fl.clients.faults.backdoor_base import BackdoorFault
from hqde_fl.clients.faults.straggle import Straggle
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import load_test_set
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.own_modules import display_name, import_attribute, is_own
from hqde_fl.protocol.screening import Screening
from hqde_fl.registry import Registry
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks import ATTACKS, Attack
from hqde_fl.simulations.attacks.attack_grid import AttackGrid, Defence, KnownElsewhere
from hqde_fl.simulations.attacks.round_updates import SentModelOf
from hqde_fl.simulations.engines.fault_error_grid import FaultErrorGrid
from hqde_fl.simulations.experiment.components import build_component
from hqde_fl.simulations.experiment.display_names import CLIENT_KEYS
from hqde_fl.simulations.heterogeneity.drop_out_grid import DropOutGrid
from hqde_fl.simulations.heterogeneity.late_joiners import LateJoiners
from hqde_fl.terminal_text import describe_error

SCHEDULE_KEYS = ("start", "stop", "period", "on", "absent", "resample")
"""Keys of a fault that say in which rounds it acts."""

LEVEL, CLIENT, EDGE = "level", "client", "edge"
"""The key of a fault that says who has it, and its values: clients, the default, or edges."""


@final
@dataclass(frozen=True)
class PlannedFault:
    """One of an experiment's faults.

    Parameters
    ----------
    name : str
        Its name in the file; of a fault of the user's own, that of its class.
    fault : Fault or Attack
        A fault of single clients, or an attack by colluding ones.
    clients : int or frozenset[int]
        The number of faulty clients, or their partition ids.
    schedule : FaultSchedule
        The rounds in which it acts.
    """

    name: str
    fault: Fault | Attack
    clients: FaultyClients
    schedule: FaultSchedule

    @classmethod
    def build(cls, table: Mapping[str, Any], key: str, clients: int) -> PlannedFault:
        """Build the fault that a table of the file describes.

        Parameters
        ----------
        table : Mapping[str, Any]
            The table.
        key : str
            Its dotted key in the file, for the error messages.
        clients : int
            Number of all clients, of which the table may name a fraction.

        Raises
        ------
        ConfigError
            If the table does not describe a fault of some clients.
        """
        keys = (*CLIENT_KEYS, *SCHEDULE_KEYS, LEVEL)
        own = {k: v for k, v in table.items() if k not in keys}
        name = own.get("name")
        registry = fault_registry(name)
        fault = build_component(registry, own, key, known=keys)
        if len(given := [which for which in CLIENT_KEYS if which in table]) != 1:
            raise ConfigError(
                f"{key} needs one of {', '.join(CLIENT_KEYS)}, "
                f"found {' and '.join(given) or 'none'}"
            )
        if "clients" in table:
            faulty: FaultyClients = _client_ids(table["clients"], f"{key}.clients")
        elif "fraction" in table:
            faulty = count_from_fraction(table["fraction"], clients)
        elif type(faulty := table["count"]) is not int or faulty < 0:
            raise ConfigError(f"{key}.count needs to be an integer >= 0, found {faulty!r}")
        schedule = FaultSchedule(**{k: table[k] for k in SCHEDULE_KEYS if k in table})
        return cls(display_name(str(name)), fault, faulty, schedule)

    @property
    def count(self) -> int:
        """Return the number of clients that have this fault."""
        return client_count(self.clients)

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` if the fault cannot act on a task, or the check itself fails."""
        try:
            self.fault.check_task(facts)
        except Exception as error:  # of a model or a data set that cannot be looked at, too
            reason = str(error) if isinstance(error, ConfigError) else error
            raise ConfigError(
                f"fault {self.name!r} cannot act on this task: {describe_error(reason)}"
            ) from error


@final
@dataclass(frozen=True)
class Faults:
    """All faults of an experiment, and the clients that have them in each round.

    Parameters
    ----------
    faults : tuple[PlannedFault, ...]
        The faults, in the order of the file.
    clients : int
        Number of all clients.
    seed : int
        The run's seed.
    """

    faults: tuple[PlannedFault, ...]
    clients: int
    seed: int

    @classmethod
    def build(
        cls, tables: Sequence[Mapping[str, Any]], clients: int, seed: int, level: str = CLIENT
    ) -> Faults:
        """Build the faults of one level that the tables of a file describe.

        At level "edge" the clients are the edges.

        Raises
        ------
        ConfigError
            If a table does not describe a fault; if the faults need more clients than there are,
            one client twice, or more than one attack; or if the attack refuses these numbers.
        """
        planned = tuple(
            PlannedFault.build(table, f"faults.{index}", clients)
            for index, table in enumerate(tables)
            if level_of(table, f"faults.{index}") == level
        )
        if (needed := sum(fault.count for fault in planned)) > clients:
            found = f"{clients} edges" if level == EDGE else f"clients.count = {clients}"
            raise ConfigError(f"faults need {needed} {level}s in all, found {found}")
        attacks = [fault for fault in planned if isinstance(fault.fault, Attack)]
        if len(attacks) > 1:
            names = " and ".join(attack.name for attack in attacks)
            raise ConfigError(f"faults may have one attack by colluding clients, found {names}")
        faults = cls(planned, clients, seed)
        if faults.attack is not None:
            index, attack = faults.attack
            attack.check(clients, planned[index].count)
        _ = faults.plan  # refuses clients that do not exist, and those of two faults
        return faults

    def check_engine(self, engine: str) -> None:
        """Raise ``ConfigError`` if clients have fault 'kill' and the engine is 'inline'."""
        for fault in self.faults:
            if fault.count and fault.name == "kill" and engine == "inline":
                raise ConfigError("fault 'kill' would end the server on engine 'inline': use 'ray'")

    def check_task(self, task: Task) -> None:
        """Raise ``ConfigError`` unless the faults can act on a task.

        Only what they need to know is loaded: a model, and a few examples of the test set.
        """
        facts = TaskFacts(task, partial(load_test_set, task))
        for fault in self.faults:
            if fault.count:
                fault.check_task(facts)

    @cached_property
    def plan(self) -> FaultPlan:
        """Return the plan, which gives the partition ids that have each fault in each round."""
        return FaultPlan(
            self.clients,
            Seeds(self.seed),
            tuple(fault.clients for fault in self.faults),
            tuple(fault.schedule for fault in self.faults),
        )

    def in_round(self, server_round: int) -> dict[int, str]:
        """Return partition id -> name of its fault, for every client that is faulty in a round."""
        pairs = zip(self.faults, self.plan.faulty(server_round), strict=True)
        return {client: fault.name for fault, clients in pairs for client in sorted(clients)}

    def mods(self, *, virtual_time: bool = False) -> list[Mod]:
        """Return a Flower mod for each fault that is no attack; it acts in its own clients only.

        In virtual time a client that straggles has none: ``delays`` has its seconds.
        """
        return [
            only_for(fault.fault, self.plan.choice_of(index), self.seed, fault.name)
            for index, fault in enumerate(self.faults)
            if isinstance(fault.fault, Fault)
            and not (virtual_time and isinstance(fault.fault, Straggle))
        ]

    def delays(self, server_round: int) -> dict[int, float]:
        """Return partition id -> seconds by which it straggles, for a round in virtual time."""
        pairs = zip(self.faults, self.plan.faulty(server_round), strict=True)
        return {
            client: fault.fault.seconds
            for fault, clients in pairs
            if isinstance(fault.fault, Straggle)
            for client in clients
        }

    def supervise(self, grid: Grid) -> Grid:
        """Return a grid without late joiners, on which an error in a fault's own code ends the run.

        It is the given grid itself if no fault's clients are absent at first, and there are no
        faults but attacks by colluding clients.
        """
        if any(isinstance(fault.fault, Fault) for fault in self.faults):
            grid = FaultErrorGrid(grid, self._single_in_round)
        if any(schedule.absent for schedule in self.plan.schedules):
            grid = DropOutGrid(grid, LateJoiners(self.plan.absent), Seeds(self.seed))
        return grid

    def _single_in_round(self, server_round: int) -> dict[int, str]:
        """Return partition id -> fault name in a round, without the clients that collude."""
        names = self.in_round(server_round).items()
        single = {fault.name for fault in self.faults if isinstance(fault.fault, Fault)}
        return {client: name for client, name in names if name in single}

    @property
    def attack(self) -> tuple[int, Attack] | None:
        """Return (index, attack) of the attack by colluding clients; None if no client has it."""
        for index, fault in enumerate(self.faults):
            if fault.count and isinstance(fault.fault, Attack):
                return index, fault.fault
        return None

    def add_attackers(
        self,
        grid: Grid,
        defence: Defence,
        sent_model: SentModelOf,
        screening: Screening,
        elsewhere: KnownElsewhere | None = None,
    ) -> Grid:
        """Return a grid on which the attackers collude; the given one if there are none.

        Parameters
        ----------
        grid : Grid
            Runs the clients.
        defence : Defence
            Function (member) -> the rule in use and its state, which attackers may know.
        sent_model : SentModelOf
            Function (member) -> the model that clients were sent in the round.
        screening : Screening
            Limits on the content of a reply, which attackers know.
        elsewhere : KnownElsewhere, optional
            Honest updates behind other grids, for rounds in which no client of this one is honest.
        """
        if self.attack is None:
            return grid
        index, attack = self.attack
        return AttackGrid(
            grid,
            attack,
            self.plan.choice_of(index),
            defence=defence,
            sent_model=sent_model,
            screening=screening,
            seed=self.seed,
            elsewhere=elsewhere,
        )

    @property
    def backdoors(self) -> dict[str, BackdoorFault]:
        """Return name -> backdoor of those that faulty clients try to plant.

        Of two with the same name the second one is ``name-2``.
        """
        found: dict[str, BackdoorFault] = {}
        for fault in self.faults:
            if fault.count and isinstance(fault.fault, BackdoorFault):
                same = sum(name.startswith(fault.name) for name in found)
                found[f"{fault.name}-{same + 1}" if same else fault.name] = fault.fault
        return found


def level_of(table: Mapping[str, Any], key: str = "faults") -> str:
    """Return who has the fault of a table: "client", or "edge"; raise ``ConfigError`` for others.

    ``key`` is the dotted key of the table in the file.
    """
    level = table.get(LEVEL, CLIENT)
    if level not in (CLIENT, EDGE):
        raise UnknownNameError(f"{key}.{LEVEL}", str(level), (CLIENT, EDGE))
    return str(level)


def fault_registry(name: Any) -> Registry[Any]:
    """Return ``ATTACKS`` for the name of an attack by colluding clients, ``FAULTS`` for others.

    Raise ``ConfigError`` if there is neither a fault nor an attack of this name.
    """
    if not isinstance(name, str):
        return FAULTS  # which says that it needs a name
    if is_own(name):
        value = import_attribute("fault", name)
        if not (isinstance(value, type) and issubclass(value, Fault | Attack)):
            raise ConfigError(
                f"fault {name!r} must be a subclass of hqde_fl.clients.faults.Fault or "
                "hqde_fl.simulations.attacks.Attack"
            )
        return ATTACKS if issubclass(value, Attack) else FAULTS
    if name not in FAULTS and name not in ATTACKS:
        raise UnknownNameError("fault", name, (*FAULTS, *ATTACKS))
    return ATTACKS if name in ATTACKS else FAULTS


def _client_ids(value: Any, key: str) -> frozenset[int]:
    """Return a list's partition ids; raise ``ConfigError`` unless all are different integers."""
    ids = value if isinstance(value, list | tuple) else [None]
    if any(type(client) is not int for client in ids) or len(set(ids)) < len(ids):
        raise ConfigError(f"{key} needs to be a list of different integers, found {value!r}")
    return frozenset(ids)
