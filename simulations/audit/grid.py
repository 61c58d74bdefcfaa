"""A Flower Grid of honest clients and one hostile client that follows a row of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import final

from flwr.app import Context, Error, Message, MessageType, RecordDict

from hqde_fl.protocol.flower_internals import ErrorCode
from hqde_fl.simulations.audit.catalogue_row import (
    AnswerContext,
    CatalogueRow,
    Reply,
    UploadedReply,
)
from hqde_fl.simulations.audit.honest_clients import CLIENTS, CULPRIT, honest_content
from hqde_fl.simulations.audit.message_objects import from_objects, to_objects
from hqde_fl.simulations.audit.peak_memory import PeakMeter, memory_bound
from hqde_fl.simulations.engines.base import LocalGrid
from hqde_fl.simulations.engines.deployment.announcements import object_ids
from hqde_fl.simulations.engines.deployment.inflate import inflate
from hqde_fl.simulations.engines.deployment.limits import Limits, ReplyError

LIMITS = Limits(max_bytes=16 << 20, max_objects=256)
"""The limits of ``GuardedGrid`` for a small model."""


@dataclass(frozen=True)
class MemoryUse:
    """The memory that reading and screening the culprit's replies of one round took.

    Parameters
    ----------
    received : int
        Bytes of the culprit's replies as uploaded.
    growth : int or None
        Largest growth of the process's memory in bytes; None if this platform cannot measure it.
    """

    received: int = 0
    growth: int | None = None

    @property
    def excess(self) -> float:
        """Bytes of growth beyond the bound; negative if within it, -inf if not measured."""
        return -inf if self.growth is None else self.growth - memory_bound(self.received)


@final
class AuditGrid(LocalGrid):
    """A Grid whose clients run in this process and reply through Flower's wire format.

    A reply is split into the objects that a deployment uploads and assembled again as Flower's Grid
    does it. A strategy therefore receives exactly the messages that a real node can cause.

    Parameters
    ----------
    row : CatalogueRow or None
        Behaviour of the culprit; None makes it honest.
    guarded : bool, default=False
        Read uploads that need not form a message as ``GuardedGrid`` does.
    """

    def __init__(self, row: CatalogueRow | None, guarded: bool = False) -> None:
        super().__init__(CLIENTS, seed=0)
        self.culprit_answered = False
        """True once the culprit has answered a message as the row says."""
        self.largest_memory_use = MemoryUse()
        """The memory of the round in which the culprit's replies exceeded their bound the most."""
        self._meter = PeakMeter()
        self._received: int | None = None  # bytes from the culprit while a round is measured
        self._row, self._guarded = row, guarded
        self._before: Message | None = None
        self._context = Context(self._run.run_id, self.culprit, {}, RecordDict(), {})

    @property
    def culprit(self) -> int:
        """The node id of the hostile client."""
        return self._nodes[CULPRIT]

    def contexts(self, partitions: Iterable[int]) -> dict[int, RecordDict]:
        """Return the culprit's context state, if it has any; honest clients have none."""
        state = self._context.state
        return {CULPRIT: state} if state and CULPRIT in set(partitions) else {}

    def set_contexts(self, contexts: Mapping[int, RecordDict]) -> None:
        """Set the culprit's context state, or empty it if there is none in ``contexts``.

        The states of honest clients are ignored.
        """
        self._context.state = contexts.get(CULPRIT, RecordDict())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run the clients and return the ids of the messages.

        Of several replies to one message the last can be pulled.
        """
        self.end_measurement()
        keys = []
        for message in messages:
            keys.append(self._number(message))
            for reply in self._answers(message):
                self._replies[keys[-1]] = reply
        return keys

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Run the clients and return all their replies; ``timeout`` is ignored."""
        self.end_measurement()
        replies: list[Message] = []
        for message in messages:
            self._number(message)
            replies += self._answers(message)
        return replies

    def end_measurement(self) -> None:
        """Stop the memory meter of a round, if it runs: the strategy has read the replies by now.

        The result becomes ``largest_memory_use`` if none so far exceeded its bound by more.
        """
        if self._received is not None:
            use = MemoryUse(self._received, self._meter.stop())
            self._received = None
            if use.excess >= self.largest_memory_use.excess:
                self.largest_memory_use = use

    def _answers(self, message: Message) -> list[Message]:
        """Return the messages that the strategy receives in reply to a message.

        If the culprit replies as its row says, the memory meter is started.
        """
        replies = self._replies_to(message)
        uploads = [to_objects(reply) if isinstance(reply, Message) else reply for reply in replies]
        if self._misbehaves(message):
            self._received = sum(upload.size for upload in uploads)
            self._meter.start()
            uploads = [_copied(upload) for upload in uploads]
        return [
            from_objects(upload) if isinstance(reply, Message) else self._inflate(message, upload)
            for reply, upload in zip(replies, uploads, strict=True)
        ]

    def _replies_to(self, message: Message) -> Sequence[Reply]:
        node = message.metadata.dst_node_id
        kind = message.metadata.message_type
        if kind not in (MessageType.TRAIN, MessageType.EVALUATE):
            return [Message(Error(2, f"no function for {kind!r}"), reply_to=message)]
        content = honest_content(message, self._partitions[node])
        if self._row is None or not self._misbehaves(message):
            return [Message(content, reply_to=message)]
        self.culprit_answered = True
        case = AnswerContext(
            message, content, self._context, self._before, self._nodes[CULPRIT + 1]
        )
        self._before = message
        return self._row.replies(case)

    def _misbehaves(self, message: Message) -> bool:
        """Return True if there is a row and the message is one that the culprit answers by it."""
        kind = message.metadata.message_type
        to_culprit = message.metadata.dst_node_id == self.culprit
        return self._row is not None and to_culprit and kind == self._row.request

    def _inflate(self, message: Message, upload: UploadedReply) -> Message:
        """Return the reply that an upload forms, read as the Grid of a deployment does it.

        If ``guarded``, the reply to ``message`` is an error if the upload is malformed or too
        large; else an exception may be raised.
        """
        if not self._guarded:
            return from_objects(upload)
        try:
            if upload.tree is not None:
                object_ids(upload.tree, LIMITS.max_objects)
            content = inflate(upload.root, upload.objects, LIMITS)
        except ReplyError as error:
            content = Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error))
        return Message(content, reply_to=message)


def _copied(upload: UploadedReply) -> UploadedReply:
    """Return an upload with copies of all its bytes, since a real Grid reads from its own bytes."""
    objects = {key: bytes(memoryview(content)) for key, content in upload.objects.items()}
    return UploadedReply(upload.root, objects, upload.tree and bytes(memoryview(upload.tree)))
