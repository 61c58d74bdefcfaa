"""The choice of faulty clients in each round, by partition id and seed: the same on any engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import final

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds

FaultyClients = int | frozenset[int]
"""The number of faulty clients to draw, or their partition ids."""

PartitionChoice = Collection[int] | Callable[[int], Collection[int]]
"""Partition ids for all rounds, or a function (round) -> partition ids."""


@final
@dataclass(frozen=True)
class FaultSchedule:
    """The rounds in which a fault acts.

    In all other rounds its clients are honest. *Sleepers* have a late ``start``, *on-off*
    attackers a ``period``, and *late joiners* are ``absent`` until they start.

    Parameters
    ----------
    start : int, default=1
        The first round, >= 1.
    stop : int, default=0
        The last round, >= ``start``; 0 for no last round.
    period : int, default=0
        Length in rounds of a cycle, counted from ``start``, of which only the first ``on`` rounds
        are active; 0 for no cycle.
    on : int, default=0
        Active rounds of each cycle, in [1, ``period``]; 0 without a ``period``.
    absent : bool, default=False
        The fault's clients take no part in training before ``start``, which must be > 1.
    resample : bool, default=False
        Draw other clients in every round.
    """

    start: int = 1
    stop: int = 0
    period: int = 0
    on: int = 0
    absent: bool = False
    resample: bool = False

    def __post_init__(self) -> None:
        for name in ("start", "stop", "period", "on"):
            if type(value := getattr(self, name)) is not int:
                raise ConfigError(f"FaultSchedule.{name} must be an integer, found {value!r}")
        for name in ("absent", "resample"):
            if type(value := getattr(self, name)) is not bool:
                raise ConfigError(f"FaultSchedule.{name} must be true or false, found {value!r}")
        if self.start < 1:
            raise ConfigError(f"FaultSchedule.start must be >= 1, found {self.start}")
        if self.stop != 0 and self.stop < self.start:
            raise ConfigError(
                f"FaultSchedule.stop must be 0 (never) or >= start = {self.start}, "
                f"found {self.stop}"
            )
        if self.period < 0:
            raise ConfigError(f"FaultSchedule.period must be >= 0, found {self.period}")
        least = 1 if self.period else 0
        if not least <= self.on <= self.period:
            raise ConfigError(
                f"FaultSchedule.on must be in [{least}, {self.period}], found {self.on}"
            )
        if self.absent and (self.start == 1 or self.resample):
            found = "resample = true" if self.resample else "start = 1"
            raise ConfigError(
                "FaultSchedule.absent needs clients that stay the same and start > 1, before which "
                f"they are absent, found {found}"
            )

    def active(self, server_round: int) -> bool:
        """Return True if the fault acts in a round."""
        if server_round < self.start or (self.stop and server_round > self.stop):
            return False
        return not self.period or (server_round - self.start) % self.period < self.on


def client_count(clients: FaultyClients) -> int:
    """Return the number of faulty clients."""
    return clients if isinstance(clients, int) else len(clients)


def count_from_fraction(fraction: float, partitions: int) -> int:
    """Return the number of clients that a fraction of all partitions is, rounded down.

    Raises
    ------
    ConfigError
        If the fraction is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"the fraction of a fault must be in [0, 1], found {fraction}")
    return int(fraction * partitions + 1e-9)


def choose_faulty_clients(
    requests: Sequence[FaultyClients], partitions: int, seeds: Seeds
) -> list[frozenset[int]]:
    """Choose disjoint sets of faulty partitions, one for each fault of a run.

    Clients that are only counted are drawn from one seeded permutation of those that no fault
    names. Changing the last count therefore leaves the earlier sets as they are.

    Parameters
    ----------
    requests : Sequence[FaultyClients]
        For each fault the number of its partitions, >= 0, or their ids.
    partitions : int
        Number of partitions.
    seeds : Seeds
        The run's seeds.

    Raises
    ------
    ConfigError
        If there are more faulty clients than clients, or if a named client does not exist or is
        named twice.
    """
    named: set[int] = set()
    for request in requests:
        if isinstance(request, int):
            if request < 0:
                raise ConfigError(f"the count of a fault must be >= 0, found {request}")
            continue
        if unknown := sorted(request - set(range(partitions))):
            raise ConfigError(
                f"the clients of a fault must be in [0, {partitions - 1}], found {unknown[0]}"
            )
        if twice := sorted(request & named):
            raise ConfigError(f"a client can have one fault, found two of client {twice[0]}")
        named |= request
    if (needed := sum(map(client_count, requests))) > partitions:
        raise ConfigError(f"the faults need {needed} different clients, found {partitions} clients")
    drawn = seeds.numpy("faulty").permutation(partitions).tolist()
    order = iter([client for client in drawn if client not in named])
    return [
        frozenset(next(order) for _ in range(request)) if isinstance(request, int) else request
        for request in requests
    ]


@final
@dataclass(frozen=True)
class FaultPlan:
    """The faulty clients of every round, for the clients themselves and for reports.

    Faults that keep their clients get them from ``choose_faulty_clients``. The remaining clients
    are divided, in every round, among the faults that resample. So no client has two faults at
    once, and a fault that resamples changes no other fault's clients.

    Parameters
    ----------
    partitions : int
        Number of partitions.
    seeds : Seeds
        The run's seeds.
    requests : tuple[FaultyClients, ...]
        For each fault the number of its partitions, >= 0, or their ids.
    schedules : tuple[FaultSchedule, ...]
        For each fault the rounds in which it acts.

    Raises
    ------
    ConfigError
        As ``choose_faulty_clients``, or if a fault that names its clients resamples, or if there is
        not one schedule per request.
    """

    partitions: int
    seeds: Seeds
    requests: tuple[FaultyClients, ...]
    schedules: tuple[FaultSchedule, ...]

    def __post_init__(self) -> None:
        if len(self.requests) != len(self.schedules):
            raise ConfigError(
                f"FaultPlan needs a schedule for each of {len(self.requests)} faults, "
                f"found {len(self.schedules)}"
            )
        for request, schedule in zip(self.requests, self.schedules, strict=True):
            if schedule.resample and not isinstance(request, int):
                raise ConfigError(
                    "FaultSchedule.resample draws other clients in every round: the fault needs "
                    f"count or fraction, found clients {sorted(request)}"
                )
        choose_faulty_clients(self.requests, self.partitions, self.seeds)

    def faulty(self, server_round: int) -> list[frozenset[int]]:
        """Return each fault's partitions in a round; an empty set where it does not act."""
        drawn = _drawn(self, server_round if any(s.resample for s in self.schedules) else 0)
        pairs = zip(drawn, self.schedules, strict=True)
        return [clients if s.active(server_round) else frozenset() for clients, s in pairs]

    def absent(self, server_round: int) -> frozenset[int]:
        """Return the partitions of late joiners that take no part in a round yet."""
        late = [s.absent and server_round < s.start for s in self.schedules]
        if not any(late):
            return frozenset()
        drawn = _drawn(self, server_round if any(s.resample for s in self.schedules) else 0)
        return frozenset().union(*(c for c, is_late in zip(drawn, late, strict=True) if is_late))

    def choice_of(self, index: int) -> Callable[[int], frozenset[int]]:
        """Return a function (round) -> partitions of the fault at an index, for ``only_for``."""
        return partial(_partitions_in, self, index)


def _partitions_in(plan: FaultPlan, index: int, server_round: int) -> frozenset[int]:
    return plan.faulty(server_round)[index]


@lru_cache(maxsize=64)
def _drawn(plan: FaultPlan, server_round: int) -> tuple[frozenset[int], ...]:
    """Return each fault's partitions in a round, also of faults that do not act in it."""
    pairs = list(zip(plan.requests, plan.schedules, strict=True))
    lasting = [0 if schedule.resample else request for request, schedule in pairs]
    kept = choose_faulty_clients(lasting, plan.partitions, plan.seeds)
    left = sorted(set(range(plan.partitions)).difference(*kept))
    order = iter(plan.seeds.numpy("faulty", server_round).permutation(left).tolist())
    return tuple(
        frozenset(next(order) for _ in range(client_count(request))) if schedule.resample else fixed
        for (request, schedule), fixed in zip(pairs, kept, strict=True)
    )
