"""The questions of secure aggregation to clients, and who did not answer them, or wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from logging import WARNING
from typing import final

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from hqde_fl.errors import SecureAggregationError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.npy import MalformedError
from hqde_fl.protocol.reply_matching import ReplyMatcher
from hqde_fl.protocol.secure_messages import query, secure_record
from hqde_fl.strategies.outcomes import FAILED, LATE, REJECTED
from hqde_fl.strategies.round.error_reasons import last_line
from hqde_fl.terminal_text import printable

Take = Callable[[int, ConfigRecord], None]
"""Function (node, its answer) that keeps the answer, or raises if it is not one."""


@final
@dataclass(eq=False)
class SecureQuestions:
    """Asks the clients of a round, and keeps why some of them have dropped out.

    Parameters
    ----------
    number : int
        The round.
    grid : Grid
        Delivers the questions.
    deadline : float
        Seconds to wait for the answers to one of them.

    Attributes
    ----------
    causes : dict[int, str]
        Node that did not answer a question, or answered wrongly -> the reason.
    traffic : dict[int, list[int]]
        Node -> bytes of the questions to it, and of its answers.
    """

    number: int
    grid: Grid
    deadline: float
    causes: dict[int, str] = field(default_factory=dict)
    traffic: dict[int, list[int]] = field(default_factory=dict)

    def ask(self, action: str, records: Mapping[int, ConfigRecord], take: Take) -> None:
        """Ask nodes for a step, hand their answers on, and note why some are not accepted.

        Parameters
        ----------
        action : str
            The step, such as ``KEYS``.
        records : Mapping[int, ConfigRecord]
            Node -> the question; nobody is asked if there are none.
        take : Take
            Keeps an answer. Whatever it raises is the client's own fault.
        """
        if not records:
            return
        messages = [query(node, action, record, self.number) for node, record in records.items()]
        for message in messages:
            traffic = self.traffic.setdefault(message.metadata.dst_node_id, [0, 0])
            traffic[0] += message_bytes(message.content)
        matcher, seen = ReplyMatcher(messages), set[int]()
        for reply in self.grid.send_and_receive(messages, timeout=self.deadline):
            node = matcher.source(reply)
            if node is None:
                source = reply.metadata.src_node_id
                log(WARNING, "dropped a reply signed by node %d to a message never sent", source)
                continue
            twice = f"{REJECTED}: duplicate reply" if node in seen else None
            reason = twice or self._exclusion(node, reply, matcher, take)
            seen.add(node)
            if reason is not None:
                self.causes[node] = reason
                log(WARNING, "round %d: node %d %s", self.number, node, reason)
        self.causes |= dict.fromkeys(records.keys() - seen, LATE)

    def _exclusion(
        self, node: int, reply: Message, matcher: ReplyMatcher, take: Take
    ) -> str | None:
        """Hand an answer on and return None, or return why it is not accepted."""
        if reply.has_error():
            return f"{FAILED}: {last_line(reply.error.reason)}"
        if not reply.has_content():
            return f"{REJECTED}: neither a content nor an error"
        if error := matcher.envelope_error(reply, node):
            return f"{REJECTED}: {error}"
        self.traffic[node][1] += message_bytes(reply.content)
        try:
            record = secure_record(reply.content)
            if record is None:
                raise MalformedError("secure aggregation: no record")
            take(node, record)
        except (MalformedError, SecureAggregationError) as error:
            return f"{REJECTED}: {error}"
        except Exception as error:  # a client can break only its own reply
            text = printable(str(error), 120)
            return f"{REJECTED}: malformed answer ({type(error).__name__}: {text})"
        return None
