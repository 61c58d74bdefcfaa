"""A Grid on which rounds are timed by a virtual clock.

Real time says little about a simulation: all clients have the same machine, and wait for each
other. Here every client has a speed and a connection of its own, and its reply a time that is
computed from them: the same on every engine, however busy the machine is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from logging import WARNING
from typing import final

from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.clients.message_fields import is_training, server_round
from hqde_fl.errors import RunError
from hqde_fl.protocol.example_counts import counted_examples, examples_question
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.reply_matching import with_nodes
from hqde_fl.protocol.screening import NUM_EXAMPLES
from hqde_fl.protocol.wrapped_grid import PartitionAwareGrid
from hqde_fl.simulations.heterogeneity.client_times import ClientTimes
from hqde_fl.simulations.heterogeneity.drop_out import DropOut
from hqde_fl.simulations.heterogeneity.message_bytes import array_bytes

REAL_SECONDS = 86400.0
"""Real seconds that the engine waits for replies, whatever the deadline in virtual time is."""

Delays = Callable[[int], Mapping[int, float]]
"""(round) -> partition id -> virtual seconds that a fault adds to the client's reply."""


@final
class VirtualTimeGrid(PartitionAwareGrid):
    """A Grid that computes when replies to training messages arrive, and drops those that are late.

    Virtual seconds from message to reply: the bytes to the client over its bandwidth, its latency,
    its training, and the bytes of its reply over its bandwidth. A reply after the ``timeout`` of
    ``send_and_receive`` is not handed on, but its client has trained. An error reply comes when the
    training would have ended; that of a client that drops out after a random part of that time.

    How many examples a client trains on is asked of the client before its first training
    (``hqde_fl.protocol.example_counts``), so that nothing a faulty client claims changes its times.
    Clients that do not answer, as stock ones, are taken at the word of their ``num-examples``.

    Everything that is not training takes no virtual time: evaluation, queries, the server's work.

    Parameters
    ----------
    grid : Grid
        The Grid that reaches the clients. If it knows no partitions, nodes have to tell them in
        their replies to ``query.identity``.
    times : ClientTimes
        The clients' speeds and connections.
    drop_out : DropOut, optional
        The clients that drop out on ``grid``.
    delays : Delays, optional
        The virtual seconds that faults add.
    download_bytes : Callable[[Message], int], optional
        Bytes of a training message that take time; by default those of its arrays.
    """

    def __init__(
        self,
        grid: Grid,
        times: ClientTimes,
        *,
        drop_out: DropOut | None = None,
        delays: Delays | None = None,
        download_bytes: Callable[[Message], int] = array_bytes,
    ) -> None:
        super().__init__(grid)
        self._times, self._drop_out = times, drop_out
        self._delays: Delays = delays if delays is not None else lambda server_round: {}
        self._download_bytes = download_bytes
        self._examples: dict[int, int | None] = {}
        self._training: dict[int, Message] = {}
        self._passes: dict[int, tuple[float, float]] = {}
        self._sizes: dict[int, int] = {}
        self._round = 0
        self._replied: dict[int, float] = {}
        self._late_by: Mapping[int, float] = {}
        self._deadline = math.inf

    def reply_times(self) -> Mapping[int, float]:
        """Return node -> virtual seconds from the last training messages to its reply."""
        return self._replied

    def round_time(self) -> float:
        """Return the virtual seconds of the last training, or its timeout if a node was late."""
        if any(self._replied.get(n, math.inf) > self._deadline for n in self._training):
            return self._deadline
        return max(self._replied.values(), default=0.0)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies; those to training messages that are in time.

        For training messages the ``timeout`` is in virtual seconds. The real one is long.
        """
        sent = list(messages)
        real = None if timeout is None else max(timeout, REAL_SECONDS)
        training = [message for message in sent if is_training(message)]
        if not training:
            return self._note_identities(sent, self._grid.send_and_receive(sent, timeout=real))
        self._ask_for_examples([message.metadata.dst_node_id for message in training])
        self._round = server_round(training[0])
        self._training = {message.metadata.dst_node_id: message for message in training}
        shared = {id(message.content): message for message in training}
        self._passes = {key: self._times.passes(message) for key, message in shared.items()}
        # now: what nodes hold may be known to be other when they have answered
        self._sizes = {node: self._download_bytes(m) for node, m in self._training.items()}
        self._late_by = self._delays(self._round)
        self._replied, self._deadline = {}, math.inf if timeout is None else timeout
        return self._in_time(sent, self._grid.send_and_receive(sent, timeout=real))

    def _ask_for_examples(self, nodes: Sequence[int]) -> None:
        new = [node for node in nodes if node not in self._examples]
        if not new:
            return
        questions = [examples_question(node) for node in new]
        self._examples |= dict.fromkeys(new)
        replies = self._grid.send_and_receive(questions, timeout=REAL_SECONDS)
        for node, reply in with_nodes(questions, replies):
            if node is not None:
                self._examples[node] = counted_examples(reply)
        if silent := [node for node in new if self._examples[node] is None]:
            text = "%d clients do not tell how many examples they have (the first: node %d): "
            log(WARNING, text + "their virtual times go by what they claim", len(silent), silent[0])

    def _in_time(self, sent: Sequence[Message], replies: Iterable[Message]) -> Iterator[Message]:
        waiting = iter(replies)
        try:
            for node, reply in with_nodes(sent, waiting):
                if node is None or node not in self._training:
                    yield reply  # it answers no training message
                    continue
                seconds = self._seconds(node, reply)
                self._replied.setdefault(node, seconds)
                if seconds <= self._deadline:
                    yield reply
        finally:  # clients may still be at work
            if isinstance(waiting, Generator):
                waiting.close()

    def _seconds(self, node: int, reply: Message) -> float:
        """Return the virtual seconds from the message to a node until its reply."""
        client, number = self._partition(node), self._round
        if client is None:
            raise RunError(f"virtual time needs the partition id of node {node}: it told none")
        connection = self._times.connection(client, number)
        counted = self._examples[node]
        partial, full = self._passes[id(self._training[node].content)]
        passes, own = (full, _claimed_examples(reply)) if counted is None else (partial, counted)
        examples = passes * self._times.examples_read(own)
        seconds = (
            connection.download_seconds(self._sizes[node])
            + examples * self._times.example_seconds(client, number)
            + self._late_by.get(client, 0.0)
        )
        if self._drop_out is not None:
            part = self._drop_out.part(client, number, self._times.seeds)
            if part is not None:
                return part * seconds
        return seconds + connection.upload_seconds(array_bytes(reply))


def _claimed_examples(reply: Message) -> float:
    """Return the number of examples that a reply claims; 0 if it claims no sensible one."""
    if not reply.has_content():
        return 0.0
    for record in reply.content.metric_records.values():
        claim = record.get(NUM_EXAMPLES)
        if isinstance(claim, int | float) and math.isfinite(claim) and claim > 0:
            return float(claim)
    return 0.0
