"""Replies with false metadata, or with names that no message can hold."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.protocol.held_entries import MISSING
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.omitted_entries import ENTRIES
from hqde_fl.protocol.records import to_record
from hqde_fl.protocol.reply_matching import ReplyMatcher
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.round.error_reasons import last_line
from hqde_fl.terminal_text import printable
from tests.strategies.federation import (
    HOSTILE,
    MODEL,
    Recorder,
    federation,
    honest,
    run,
    strategy_with,
    weight,
)

RUN, SERVER = 5, 1


def envelope(**changes: object) -> Metadata:
    fields = {
        "run_id": RUN,
        "message_id": "",
        "src_node_id": SERVER,
        "dst_node_id": SERVER,
        "reply_to_message_id": "",
        "group_id": "3",
        "created_at": 0.0,
        "ttl": 60.0,
        "message_type": "train",
    }
    return Metadata(**{**fields, **changes})  # type: ignore[arg-type]


MESSAGES = [
    make_message(envelope(message_id=f"id-{node}", dst_node_id=node), content=RecordDict())
    for node in (7, 8)
]


def reply(**changes: object) -> Message:
    """Return node 7's honest reply with some metadata changed."""
    honest = {"src_node_id": 7, "reply_to_message_id": "id-7"}
    return make_message(envelope(**{**honest, **changes}), content=RecordDict())


def test_a_reply_is_of_the_node_whose_message_it_answers() -> None:
    matcher = ReplyMatcher(MESSAGES)
    assert matcher.source(reply()) == 7
    assert matcher.source(reply(src_node_id=8)) == 7
    assert matcher.source(reply(reply_to_message_id="id-8")) == 8
    assert matcher.source(reply(reply_to_message_id="of another round")) is None
    assert matcher.source(reply(reply_to_message_id="")) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"src_node_id": 8}, "signed by node 8"),
        ({"run_id": 99}, "belongs to run 99"),
        ({"group_id": "2"}, "belongs to round '2'"),
        ({"group_id": "\x1b[2J"}, "belongs to round '\\x1b[2J'"),
        ({"message_type": "evaluate"}, "answers 'evaluate'"),
    ],
)
def test_an_envelope_says_what_the_message_said(
    changes: dict[str, object], reason: str | None
) -> None:
    assert ReplyMatcher(MESSAGES).envelope_error(reply(**changes), 7) == reason


def test_what_no_message_can_hold_is_counted() -> None:
    array = Array("\udcff", (10**30, -1), "x", b"1234")
    content = RecordDict(
        {"\udcff": ArrayRecord({"\udcff": array}), "m": MetricRecord({"count": 2**99})}
    )
    assert message_bytes(content) > 4


def test_who_was_not_kept_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    caplog.set_level(logging.INFO, "flwr")
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        run(strategy_with(recorder), weight(np.ones(1, np.float32)), rounds=1)
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    culprit = recorder.client(HOSTILE)
    assert f"round 1: node {culprit.node} rejected: wrong shape (1,)" in caplog.text


def test_a_reason_is_fit_for_a_terminal() -> None:
    assert printable("a\x1b[2J\nb\udcff", 100) == "a\\x1b[2J\\nb\\udcff"
    assert last_line("Traceback\n  many\nValueError: \x1b[2Jno") == "ValueError: \\x1b[2Jno"
    assert last_line("x" * 10**6) == "x" * 500
    assert last_line("Traceback\nTaskError: client 3: it raised") == "client 3: it raised"
    flower = "<class 'a.B'>:<'\nException B occurred. Message: client 3: it's wrong'>"
    assert last_line(flower) == "client 3: it's wrong"
    assert last_line(None) == last_line(" \n ") == "no reason given"
    assert last_line(Error(1).reason) == "no reason given"


class BadRepliesFirst(InlineGrid):
    """A network that delivers what is wrong before the honest replies.

    Parameters
    ----------
    wrong : str
        What is wrong with the replies of the first client, or who else replies.
    kind : str
        The kind of messages that this is done to.
    """

    def __init__(self, wrong: str, kind: str) -> None:
        app = ClientApp()
        app.train()(lambda message, context: Message(honest(message, context), reply_to=message))

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            loss = float(context.node_config["partition-id"])
            metrics = MetricRecord({"num-examples": 5, "eval-loss": loss})
            return Message(RecordDict({"metrics": metrics}), reply_to=message)

        super().__init__(app, 6, {}, seed=1)
        self.wrong, self.kind = wrong, kind

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        sent = list(messages)
        replies = list(super().send_and_receive(sent, timeout=timeout))
        if sent[0].metadata.message_type != self.kind:
            return replies
        first, *others = replies
        if self.wrong == "late":
            return others
        if self.wrong == "stranger":
            stranger = Message(first.content, reply_to=first)
            stranger.metadata.__dict__.update(_src_node_id=99, _reply_to_message_id="unknown")
            return [stranger, *replies]
        if self.wrong == "duplicate":
            return [first, first, *others]
        if self.wrong == "error":
            return [Message(Error(1, "no"), reply_to=sent[0]), *others]
        if self.wrong == "forged":
            first.metadata.__dict__.update(_src_node_id=99)
        elif self.wrong == "empty":
            first.__dict__["_content"] = None  # neither a content nor an error
        elif self.wrong == "rejected":
            first.content.metric_records["metrics"]["num-examples"] = -1
        return [first, *others]


WRONG = {"stranger": 0, "duplicate": 1, "error": 1, "empty": 1, "forged": 1, "rejected": 1}
"""Kind of defect -> first of the partitions 0..5 whose reply still counts."""


@pytest.mark.parametrize("wrong", WRONG)
def test_updates_after_a_bad_reply_still_count(wrong: str) -> None:
    recorder = Recorder()
    strategy_with(recorder).start(BadRepliesFirst(wrong, "train"), to_record(MODEL), 1)
    kept = {client.partition for client in recorder.rounds[1].clients if client.kept}
    assert kept == set(range(WRONG[wrong], 6))


@pytest.mark.parametrize("wrong", WRONG)
def test_evaluations_after_a_bad_reply_still_count(wrong: str) -> None:
    """Each client's loss is its partition id."""
    recorder = Recorder()
    strategy = strategy_with(recorder, fraction_evaluate=1.0)
    strategy.start(BadRepliesFirst(wrong, "evaluate"), to_record(MODEL), 1)
    expected = sum(range(WRONG[wrong], 6)) / (6 - WRONG[wrong])
    assert recorder.rounds[1].clients_evaluate["eval-loss"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("wrong", "excluded"),
    [
        ("late", {0: "late"}),
        ("error", {0: "failed: no"}),
        ("duplicate", {0: "rejected: duplicate reply"}),
        ("stranger", {}),
    ],
)
def test_who_is_not_in_an_evaluation_is_recorded_with_the_reason(
    wrong: str, excluded: dict[int, str]
) -> None:
    recorder = Recorder()
    strategy = strategy_with(recorder, fraction_evaluate=1.0)
    strategy.start(BadRepliesFirst(wrong, "evaluate"), to_record(MODEL), 1)
    assert recorder.rounds[1].evaluation_asked == 6
    assert recorder.rounds[1].evaluation_excluded == excluded


def test_an_evaluation_without_the_model_counts_for_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lacking(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "evaluate" and context.node_config["partition-id"] == 0:
            content = {ENTRIES: ConfigRecord({MISSING: 1})}
            return Message(RecordDict(content), reply_to=message)
        return reply

    recorder = Recorder()
    strategy = strategy_with(recorder, fraction_evaluate=1.0)
    with caplog.at_level(logging.INFO, "flwr"):
        strategy.start(federation(None, 3, [lacking]), to_record(MODEL), 1)
    assert recorder.rounds[1].clients_evaluate["eval-loss"] == pytest.approx(2.0)
    assert recorder.rounds[1].evaluation_excluded == {0: "missing: needs the model in full"}
    assert "missing: needs the model in full" in caplog.text
    assert "rejected" not in caplog.text
