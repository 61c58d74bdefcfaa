"""A Flower Grid of honest clients and one that does what a row of the catalogue says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode

from simulations.audit.federation import CLIENTS, CULPRIT, honest
from simulations.audit.row import Case, Reply, Row
from simulations.audit.wire import from_wire, to_wire
from simulations.engines.inflate import Limits, ReplyError, inflate
from simulations.engines.local import LocalGrid

LIMITS = Limits(max_bytes=16 << 20, max_objects=256)
"""Those of ``GuardedGrid`` for a small model."""


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
        keys = []
        for message in messages:
            keys.append(self._number(message))
            for reply in self._replies_to(message):
                self._replies[keys[-1]] = self._delivered(message, reply)
        return keys

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Run the clients and return all their replies; nobody is waited for."""
        found: list[Message] = []
        for message in messages:
            self._number(message)
            found += [self._delivered(message, reply) for reply in self._replies_to(message)]
        return found

    def _replies_to(self, message: Message) -> Iterable[Reply]:
        node = message.metadata.dst_node_id
        kind = message.metadata.message_type
        if kind not in (MessageType.TRAIN, MessageType.EVALUATE):
            return [Message(Error(2, f"no function for {kind!r}"), reply_to=message)]
        content = honest(message, self._partitions[node])
        if self._row is None or node != self.culprit or kind != self._row.asked:
            return [Message(content, reply_to=message)]
        self.asked = True
        case = Case(message, content, self._context, self._before, self._nodes[CULPRIT + 1])
        self._before = message
        return self._row.replies(case)

    def _delivered(self, message: Message, reply: Reply) -> Message:
        """What the Grid hands to the strategy."""
        if isinstance(reply, Message):
            return from_wire(to_wire(reply))
        if not self._guarded:
            return from_wire(reply)
        try:
            content = inflate(reply.root, reply.objects, LIMITS)
        except ReplyError as error:
            content = Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error))
        return Message(content, reply_to=message)
