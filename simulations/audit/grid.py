"""A Flower Grid of honest clients and one that does what a row of the catalogue says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import final

from flwr.app import Context, Error, Message, MessageType, RecordDict

from hqde_fl.protocol.flower_internals import ErrorCode
from hqde_fl.simulations.audit.federation import CLIENTS, CULPRIT, honest
from hqde_fl.simulations.audit.memory import PeakMeter, memory_bound
from hqde_fl.simulations.audit.row import Case, Reply, Row, Wire
from hqde_fl.simulations.audit.wire import from_wire, to_wire
from hqde_fl.simulations.engines.base import LocalGrid
from hqde_fl.simulations.engines.deployment.announcements import object_ids
from hqde_fl.simulations.engines.deployment.inflate import inflate
from hqde_fl.simulations.engines.deployment.limits import Limits, ReplyError

LIMITS = Limits(max_bytes=16 << 20, max_objects=256)
"""Those of ``GuardedGrid`` for a small model."""


@dataclass(frozen=True)
class Reading:
    """What it took to read and screen what the culprit sent in one round.

    Parameters
    ----------
    received : int
        Bytes of its replies, as they travel.
    growth : int or None
        Bytes by which the process's memory grew at most; None if this platform cannot say.
    """

    received: int = 0
    growth: int | None = None

    @property
    def excess(self) -> float:
        """Bytes of growth beyond the bound."""
        return -inf if self.growth is None else self.growth - memory_bound(self.received)


@final
class AuditGrid(LocalGrid):
    """Clients called in this process, whose replies pass through Flower's own wire format.

    A reply is taken apart into the objects that a deployment uploads, and put together again as
    Flower's Grid does it, so that what a strategy sees here is what a real node can make it see.

    Parameters
    ----------
    row : Row or None
        What the culprit does; None makes it honest.
    guarded : bool
        Whether uploads that need not be messages are read as ``GuardedGrid`` reads them.
    """

    def __init__(self, row: Row | None, guarded: bool = False) -> None:
        super().__init__(CLIENTS, seed=0)
        self.asked = False
        """Whether the culprit had an opportunity."""
        self.worst = Reading()
        """The round in which the culprit's replies took most memory for their size."""
        self._meter = PeakMeter()
        self._received: int | None = None  # from the culprit, in the round that is measured
        self._row, self._guarded = row, guarded
        self._before: Message | None = None
        self._context = Context(self._run.run_id, self.culprit, {}, RecordDict(), {})

    @property
    def culprit(self) -> int:
        """The node id of the client that misbehaves."""
        return self._nodes[CULPRIT]

    def contexts(self, partitions: Iterable[int]) -> dict[int, RecordDict]:
        """What the culprit remembers; honest clients remember nothing."""
        state = self._context.state
        return {CULPRIT: state} if state and CULPRIT in set(partitions) else {}

    def set_contexts(self, contexts: Mapping[int, RecordDict]) -> None:
        """Have the culprit remember."""
        self._context.state = contexts.get(CULPRIT, RecordDict())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run the clients; of several replies to one message the last can be pulled."""
        self.measured()
        keys = []
        for message in messages:
            keys.append(self._number(message))
            for reply in self._answers(message):
                self._replies[keys[-1]] = reply
        return keys

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Run the clients and return all their replies; nobody is waited for."""
        self.measured()
        found: list[Message] = []
        for message in messages:
            self._number(message)
            found += self._answers(message)
        return found

    def measured(self) -> None:
        """End the measurement of a round: the strategy has read what it was handed."""
        if self._received is not None:
            reading = Reading(self._received, self._meter.stop())
            self._received = None
            if reading.excess >= self.worst.excess:
                self.worst = reading

    def _answers(self, message: Message) -> list[Message]:
        """What the Grid hands to the strategy when a client is sent a message."""
        replies = self._replies_to(message)
        wires = [to_wire(each) if isinstance(each, Message) else each for each in replies]
        if self._misbehaves(message):
            self._received = sum(wire.size for wire in wires)
            self._meter.start()
            wires = [_pulled(wire) for wire in wires]
        return [
            from_wire(wire) if isinstance(reply, Message) else self._inflated(message, wire)
            for reply, wire in zip(replies, wires, strict=True)
        ]

    def _replies_to(self, message: Message) -> Sequence[Reply]:
        node = message.metadata.dst_node_id
        kind = message.metadata.message_type
        if kind not in (MessageType.TRAIN, MessageType.EVALUATE):
            return [Message(Error(2, f"no function for {kind!r}"), reply_to=message)]
        content = honest(message, self._partitions[node])
        if self._row is None or not self._misbehaves(message):
            return [Message(content, reply_to=message)]
        self.asked = True
        case = Case(message, content, self._context, self._before, self._nodes[CULPRIT + 1])
        self._before = message
        return self._row.replies(case)

    def _misbehaves(self, message: Message) -> bool:
        """Whether a message is answered as the row says."""
        kind = message.metadata.message_type
        mine = message.metadata.dst_node_id == self.culprit
        return self._row is not None and mine and kind == self._row.asked

    def _inflated(self, message: Message, wire: Wire) -> Message:
        """An upload that need not be a message, as the Grid reads it."""
        if not self._guarded:
            return from_wire(wire)
        try:
            if wire.tree is not None:
                object_ids(wire.tree, LIMITS.max_objects)
            content = inflate(wire.root, wire.objects, LIMITS)
        except ReplyError as error:
            content = Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error))
        return Message(content, reply_to=message)


def _pulled(wire: Wire) -> Wire:
    """A copy, as the bytes that a Grid pulls are the server's own."""
    objects = {key: bytes(memoryview(content)) for key, content in wire.objects.items()}
    return Wire(wire.root, objects, wire.tree and bytes(memoryview(wire.tree)))
