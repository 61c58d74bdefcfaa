"""One edge: the server of its group of clients, and itself a client of the root."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from statistics import median
from typing import final

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    MetricRecordValues,
    RecordDict,
)
from flwr.serverapp import Grid

from hqde_fl.protocol.flower_internals import ErrorCode
from hqde_fl.protocol.members import (
    TAG,
    TAGS,
    add_member_prefix,
    message_config,
    requested_members,
    select_member,
)
from hqde_fl.protocol.no_data import no_data
from hqde_fl.protocol.omitted_entries import LEAVE_OUT
from hqde_fl.protocol.reply_matching import ReplyMatcher
from hqde_fl.protocol.screening import NUM_EXAMPLES
from hqde_fl.rules import Aggregator
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.edges.relayed_config import relayed_config
from hqde_fl.strategies.edges.settings import EdgeSettings
from hqde_fl.strategies.metrics import scalar_metrics
from hqde_fl.strategies.state import ServerState
from hqde_fl.updates.roles import Roles

Exchange = Generator[list[Message], Sequence[Message], Message]
"""Yields the messages to the edge's clients, is sent their replies, and returns the edge's own."""

OWN_METRICS = frozenset({"plain-bytes", "packed-bytes", "work", NUM_EXAMPLES})
"""Metrics of clients that an edge does not pass on: they say something of the clients' replies."""
SPREAD = ("-min", "-max", "-variance")
"""Ends of the names of metrics that describe the spread over clients."""


@final
class Edge:
    """An edge aggregator: on a training message it runs some rounds among its own clients.

    It begins with the model in the message, and replies with the model after its last round, as a
    client would. Whatever else its strategy remembers (the rule's state, who holds what, the
    clients' histories) it keeps from one message to the next.

    Its rounds are numbered on over all messages: round j of the k that answer the root's round r is
    (r - 1) k + j, by which clients seed their training, and faults are scheduled.

    Parameters
    ----------
    number : int
        The edge, from 0.
    settings : EdgeSettings
        Settings of the edges.
    seed : int
        The run's seed, from which each edge derives one of its own.
    roles : Roles, optional
        The roles of the model's entries; inferred if not given.
    """

    def __init__(
        self, number: int, settings: EdgeSettings, seed: int = 0, roles: Roles | None = None
    ) -> None:
        self.number, self.settings = number, settings
        self.strategy = settings.strategy(Seeds(seed).integer("edge", number), roles)
        self.records: list[RoundRecord] = []
        """The records of the rounds that answered the last training message."""

    def train(self, message: Message, grid: Grid) -> Exchange:
        """Run the edge's rounds from the model in a message and return the reply to the message.

        The reply is an error if no round moved the model, or that of a client without data if none
        of the edge's clients has any.

        Parameters
        ----------
        message : Message
            The root's training message.
        grid : Grid
            Knows the edge's nodes. The messages that the generator yields go to them.
        """
        key, arrays = _model_of(message)
        config = ConfigRecord({**relayed_config(message), LEAVE_OUT: True})
        first = (_round_of(message) - 1) * self.settings.rounds + 1
        self.records, examples, moved = [], list[float](), list[RoundRecord]()
        for number in range(first, first + self.settings.rounds):
            messages = self.strategy.configure_train(number, arrays, config, grid)
            replies = yield messages
            claims = claimed_examples(messages, replies)
            merged, _ = self.strategy.aggregate_train(number, replies)
            record = self.strategy.record
            self.records.append(record)
            if merged is not None:
                arrays = merged
                moved.append(record)
                kept = [claims[client.node] for client in record.clients if client.kept]
                examples.append(merged_examples(kept, self.settings.aggregation.rule))
        if not moved:
            return self._nothing_merged(message)
        content = RecordDict({key: arrays, "metrics": self._metrics(moved, examples)})
        if tags := _tags(message):
            content[TAGS] = tags
        return Message(content, reply_to=message)

    def evaluate(self, message: Message, grid: Grid) -> Exchange:
        """Let the edge's clients evaluate the model in a message; reply with their mean metrics."""
        _, arrays = _model_of(message)
        number = _round_of(message) * self.settings.rounds
        if self.strategy.state is None:  # the edge has missed all rounds so far
            own = self.strategy.settings
            self.strategy.state = ServerState.of(arrays, own.ensemble.members, own.roles)
        config = relayed_config(message)
        messages = self.strategy.configure_evaluate(number, arrays, config, grid)
        replies = yield messages
        reported = self.strategy.aggregate_evaluate(number, replies)
        if reported is None:
            return no_data(message)
        means: dict[str, MetricRecordValues] = {
            name: value
            for name, value in scalar_metrics(reported).items()
            if not any(name == f"{base}{end}" for base in reported for end in SPREAD)
        }
        metrics = MetricRecord({**means, NUM_EXAMPLES: len(messages)})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    def _metrics(self, moved: Sequence[RoundRecord], examples: Sequence[float]) -> MetricRecord:
        """Return the metrics of the edge's reply: its examples, and its clients' last means.

        ``train-seconds`` is the sum over its rounds.
        """
        means = {k: v for k, v in moved[-1].clients_train.items() if k not in OWN_METRICS}
        if (seconds := "train-seconds") in means:
            means[seconds] = sum(record.clients_train.get(seconds, 0.0) for record in moved)
        mean = sum(examples) / len(examples)
        count: MetricRecordValues = int(mean) if mean.is_integer() else mean
        return MetricRecord({NUM_EXAMPLES: count, **means})

    def _nothing_merged(self, message: Message) -> Message:
        asked = sum(record.asked for record in self.records)
        if asked and asked == sum(record.skipped for record in self.records):
            return no_data(message)
        note = self.records[-1].note if asked else "none of its clients is connected"
        return failed(message, f"edge {self.number}: {note}")


def failed(message: Message, reason: str) -> Message:
    """Return the error reply of an edge to a message."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def claimed_examples(sent: Sequence[Message], replies: Iterable[Message]) -> dict[int, float]:
    """Return node -> the number of examples that it claims, 0 where it claims no number.

    The replies are not trusted; only the claims of those that pass screening mean anything.
    """
    matcher, claims = ReplyMatcher(sent), dict.fromkeys(_nodes(sent), 0.0)
    for reply in replies:
        node = matcher.source(reply)
        if node is not None and reply.has_content():
            for record in reply.content.metric_records.values():
                claim = record.get(NUM_EXAMPLES)
                if isinstance(claim, int | float) and math.isfinite(claim):
                    claims[node] = float(claim)
    return claims


def merged_examples(claims: Sequence[float], rule: Aggregator) -> float:
    """Return the number of examples that an edge claims for its merged model.

    That is the sum of its kept clients' claims. Under a rule that bears faulty clients it is their
    median times their number, so that no minority of them decides how much the edge counts.
    """
    if not claims or rule.breakdown(len(claims)) == 0:
        return math.fsum(claims)
    return len(claims) * median(claims)


def _nodes(sent: Sequence[Message]) -> list[int]:
    return [message.metadata.dst_node_id for message in sent]


def _round_of(message: Message) -> int:
    number = message_config(message).get("server-round")
    return number if isinstance(number, int) and number > 0 else 1


def _model_of(message: Message) -> tuple[str, ArrayRecord]:
    ((name, record),) = message.content.array_records.items()
    return name, record


def _tags(message: Message) -> ConfigRecord:
    """Return the tags that come back with the members in a message; empty for one model."""
    config: Mapping[str, object] = message_config(message)
    tags = ConfigRecord()
    for member in requested_members(message) or ():
        tag = select_member(member, config).get(TAG)
        if isinstance(tag, int):
            tags.update(add_member_prefix(member, {TAG: tag}))
    return tags
