"""Which clients are faulty, and when: by partition id and seed, so that every engine agrees."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import final

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from hqde_fl.clients.faults.base import Fault
from hqde_fl.clients.faults.fault_errors import FaultError, failure_text
from hqde_fl.clients.faults.poisoning import require_poisoned
from hqde_fl.clients.message_fields import partition_of, server_round
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds

FaultyClients = int | frozenset[int]
"""How many partitions, or which."""

PartitionChoice = Collection[int] | Callable[[int], Collection[int]]
"""Partition ids that are always chosen, or (round) -> those of a round."""


@final
@dataclass(frozen=True)
class Schedule:
    """When a fault acts, and whether always in the same clients.

    Parameters
    ----------
    start : int, default=1
        The first round in which it acts, >= 1.
    stop : int, default=0
        The last one, >= ``start``; 0 for never stopping.
    resample : bool, default=False
        Whether other clients are drawn in every round.
    """

    start: int = 1
    stop: int = 0
    resample: bool = False

    def __post_init__(self) -> None:
        if self.start < 1:
            raise ConfigError(f"Schedule.start must be >= 1, found {self.start}")
        if self.stop != 0 and self.stop < self.start:
            raise ConfigError(
                f"Schedule.stop must be 0 (never) or >= start = {self.start}, found {self.stop}"
            )

    def active(self, server_round: int) -> bool:
        """Whether the fault acts in a round."""
        return self.start <= server_round and (self.stop == 0 or server_round <= self.stop)


def client_count(who: FaultyClients) -> int:
    """How many partitions they are."""
    return who if isinstance(who, int) else len(who)


def count_from_fraction(fraction: float, partitions: int) -> int:
    """How many clients a fraction of them is, rounded down.

    Raises
    ------
    ConfigError
        If the fraction is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"the fraction of a fault must be in [0, 1], found {fraction}")
    return int(fraction * partitions + 1e-9)


def choose_faulty_clients(who: Sequence[FaultyClients], partitions: int, seeds: Seeds) -> list[frozenset[int]]:
    """Disjoint sets of faulty partitions, one for each fault of a run.

    Those that are only counted come from one seeded permutation, without those that are named:
    changing the last count moves none of the earlier sets.

    Parameters
    ----------
    who : Sequence[FaultyClients]
        For each fault how many partitions it gets, >= 0, or which.
    partitions : int
        The number of partitions.
    seeds : Seeds
        The run's seeds.

    Raises
    ------
    ConfigError
        If there are more faulty clients than clients, or one that is named is not there or is
        named twice.
    """
    named: set[int] = set()
    for each in who:
        if isinstance(each, int):
            if each < 0:
                raise ConfigError(f"the count of a fault must be >= 0, found {each}")
            continue
        if unknown := sorted(each - set(range(partitions))):
            raise ConfigError(
                f"the clients of a fault must be in [0, {partitions - 1}], found {unknown[0]}"
            )
        if twice := sorted(each & named):
            raise ConfigError(f"a client can have one fault, found two of client {twice[0]}")
        named |= each
    if (needed := sum(map(client_count, who))) > partitions:
        raise ConfigError(f"the faults need {needed} different clients, found {partitions} clients")
    drawn = seeds.numpy("faulty").permutation(partitions).tolist()
    order = iter([client for client in drawn if client not in named])
    return [
        frozenset(next(order) for _ in range(each)) if isinstance(each, int) else each
        for each in who
    ]


@final
@dataclass(frozen=True)
class FaultPlan:
    """Which clients are faulty in which round: known to the clients, and to whoever reports on them.

    Faults that keep their clients have them from ``choose_faulty_clients``; those that resample share, anew in
    every round, the clients that are left. So no client ever has two faults at once, and a fault
    that resamples moves none that does not.

    Parameters
    ----------
    partitions : int
        The number of partitions.
    seeds : Seeds
        The run's seeds.
    who : tuple[FaultyClients, ...]
        For each fault how many partitions it gets, >= 0, or which.
    schedules : tuple[Schedule, ...]
        When each fault acts.

    Raises
    ------
    ConfigError
        As ``choose_faulty_clients``, or if a fault has named clients and resamples.
    """

    partitions: int
    seeds: Seeds
    who: tuple[FaultyClients, ...]
    schedules: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        if len(self.who) != len(self.schedules):
            raise ConfigError(
                f"FaultPlan needs a schedule for each of {len(self.who)} faults, "
                f"found {len(self.schedules)}"
            )
        for who, schedule in zip(self.who, self.schedules, strict=True):
            if schedule.resample and not isinstance(who, int):
                raise ConfigError(
                    "Schedule.resample draws other clients in every round: the fault needs count "
                    f"or fraction, found clients {sorted(who)}"
                )
        choose_faulty_clients(self.who, self.partitions, self.seeds)

    def faulty(self, server_round: int) -> list[frozenset[int]]:
        """The partitions that each fault has in a round; none where it does not act."""
        drawn = _drawn(self, server_round if any(s.resample for s in self.schedules) else 0)
        pairs = zip(drawn, self.schedules, strict=True)
        return [chosen if s.active(server_round) else frozenset() for chosen, s in pairs]

    def choice_of(self, index: int) -> Callable[[int], frozenset[int]]:
        """(round) -> the partitions of the fault at a place, for ``only_for``."""
        return partial(_partitions_in, self, index)


def _partitions_in(plan: FaultPlan, index: int, server_round: int) -> frozenset[int]:
    return plan.faulty(server_round)[index]


@lru_cache(maxsize=64)
def _drawn(plan: FaultPlan, server_round: int) -> tuple[frozenset[int], ...]:
    """What each fault has been dealt, whether it acts or not."""
    pairs = list(zip(plan.who, plan.schedules, strict=True))
    kept = choose_faulty_clients([0 if s.resample else who for who, s in pairs], plan.partitions, plan.seeds)
    left = sorted(set(range(plan.partitions)).difference(*kept))
    order = iter(plan.seeds.numpy("faulty", server_round).permutation(left).tolist())
    return tuple(
        frozenset(next(order) for _ in range(client_count(who))) if schedule.resample else fixed
        for (who, schedule), fixed in zip(pairs, kept, strict=True)
    )


def only_for(fault: Fault, chosen: PartitionChoice, seed: int = 0, name: str = "") -> Mod:
    """A Flower mod that makes the chosen partitions faulty and leaves all others alone.

    An exception in the fault's own code is raised as a ``FaultError`` that names the fault, the
    client and the round. One that comes out of the client's honest part passes as it is: the client
    has failed, as any may.

    Parameters
    ----------
    fault : Fault
        What they do.
    chosen : PartitionChoice
        Partition ids, or (round) -> partition ids.
    seed : int, default=0
        The run's seed, for faults that draw numbers.
    name : str, optional
        What errors call the fault; the name of its class if not given.
    """
    fixed = chosen if callable(chosen) else frozenset(chosen)
    return _OnlyFor(fault, fixed, Seeds(seed), name or type(fault).__name__)


@final
@dataclass(frozen=True)
class _OnlyFor:
    fault: Fault
    chosen: PartitionChoice
    seeds: Seeds
    name: str

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        chosen, number = self.chosen, server_round(message)
        faulty = chosen(number) if callable(chosen) else chosen
        partition, _ = partition_of(context)
        if partition not in faulty:
            return call_next(message, context)
        honest = _Honest(call_next)
        try:
            return self.fault.apply(message, context, honest, self.seeds)
        except Exception as error:
            if self.fault.raises or error is honest.error:
                raise
            raise FaultError(failure_text(self.name, partition, number, error)) from error


class _Honest:
    """The client without its fault; remembers what it raised."""

    def __init__(self, call_next: ClientAppCallable) -> None:
        self._call_next = call_next
        self.error: Exception | None = None

    def __call__(self, message: Message, context: Context) -> Message:
        try:
            reply = self._call_next(message, context)
        except Exception as error:
            self.error = error
            raise
        require_poisoned(reply)
        return reply
