"""A Flower mod that limits a fault to the chosen clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from hqde_fl.clients.faults.base import Fault
from hqde_fl.clients.faults.fault_errors import FaultError, failure_text
from hqde_fl.clients.faults.fault_plan import PartitionChoice
from hqde_fl.clients.faults.poisoning import require_poisoned
from hqde_fl.clients.message_fields import partition_of, server_round
from hqde_fl.protocol.node_numbers import names_partition
from hqde_fl.seeding import Seeds


def only_for(fault: Fault, chosen: PartitionChoice, seed: int = 0, name: str = "") -> Mod:
    """Return a Flower mod that makes the chosen partitions faulty and no others.

    An exception in the fault's own code is raised as a ``FaultError`` that names the fault, the
    client and the round. An exception in the client's honest part is raised unchanged.

    Parameters
    ----------
    fault : Fault
        The fault of the chosen clients.
    chosen : PartitionChoice
        Partition ids for all rounds, or a function (round) -> partition ids.
    seed : int, default=0
        The run's seed, for faults that draw random numbers.
    name : str, optional
        Name of the fault in errors; the name of its class if not given.
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
        if not names_partition(context):  # asked who it is, before the server has numbered it
            return call_next(message, context)
        chosen, number = self.chosen, server_round(message)
        faulty = chosen(number) if callable(chosen) else chosen
        partition, _ = partition_of(context)
        if partition not in faulty:
            return call_next(message, context)
        honest = _HonestClient(call_next)
        try:
            return self.fault.apply(message, context, honest, self.seeds)
        except Exception as error:
            if self.fault.raises or error is honest.error:
                raise
            raise FaultError(failure_text(self.name, partition, number, error)) from error


class _HonestClient:
    """The client without its fault; keeps the exception that it raised."""

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
