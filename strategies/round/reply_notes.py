"""Tell the monitor which replies of a round were read, when, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import final

from flwr.app import Message

from hqde_fl.monitor.spans import (
    EVALUATE,
    add_reported_training,
    add_span,
    alternating,
    is_recording,
    note_reply,
)
from hqde_fl.protocol.replies import read_once
from hqde_fl.protocol.reply_matching import ReplyMatcher
from hqde_fl.strategies.outcomes import LATE
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.round.round_log import RoundLog


@final
class ReplyNotes:
    """Notes about the replies of a training round; nothing is noted if nobody records.

    Parameters
    ----------
    number : int
        The round.
    roster : Roster
        Knows the nodes' partition ids.
    round_log : RoundLog
        Knows what became of each reply.
    """

    def __init__(self, number: int, roster: Roster, round_log: RoundLog) -> None:
        self._number, self._roster, self._log = number, roster, round_log
        self._read = time.time()

    def waiting_for(self, replies: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies as they come, and note the time until they do, and that between."""
        for reply in alternating(read_once(replies), "wait", "screen"):
            self._read = time.time()
            yield reply
            del reply  # not kept while the next one is awaited

    def add(self, node: int | None) -> None:
        """Note that the last reply, of this node, has been screened."""
        if node is None or not is_recording():
            return
        client, record = self._roster.identity(node), self._log.client(node)
        seconds = time.time() - self._read
        add_span("screen", self._read, seconds, round=self._number, client=client)
        note_reply(self._number, client, record.reason or "accepted")
        if record.seconds is not None:
            add_reported_training(self._number, client, record.seconds)

    def add_late(self, messages: Sequence[Message]) -> None:
        """Note those of the messages to which there is no reply."""
        if is_recording():
            for message in messages:
                if not self._log.has_reply(node := message.metadata.dst_node_id):
                    note_reply(self._number, self._roster.identity(node), LATE)


def noted_reports(
    replies: Iterable[Message], messages: Sequence[Message], roster: Roster
) -> Iterator[Message]:
    """Yield the replies to a round's evaluation messages, and note each, and those that are late.

    Parameters
    ----------
    replies : Iterable[Message]
        The replies, which nobody has looked at yet.
    messages : Sequence[Message]
        The messages that they answer.
    roster : Roster
        Knows the nodes' partition ids.
    """
    if not is_recording():
        yield from replies
        return
    matcher = ReplyMatcher(messages)
    waiting = {message.metadata.dst_node_id: message.metadata.group_id for message in messages}
    for reply in replies:
        node = matcher.source(reply)
        if node in waiting:
            outcome = "failed" if reply.has_error() else "accepted"
            note_reply(int(waiting.pop(node)), roster.identity(node), outcome, EVALUATE)
        yield reply
    for node, number in waiting.items():
        note_reply(int(number), roster.identity(node), LATE, EVALUATE)
