"""A round's record counts bytes by role, and clients by outcome."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from hqde_fl.protocol import message_size
from hqde_fl.protocol.message_size import ROLES_AND_OTHER, message_bytes
from hqde_fl.protocol.records import layout_of, to_record
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.round import round_log
from hqde_fl.strategies.round.round_log import RoundLog

FULL = to_record({"weight": torch.ones(30), "running_mean": torch.zeros(10)})
SENT = RecordDict({"arrays": FULL, "config": ConfigRecord({"server-round": 2})})
SHORT = RecordDict({"arrays": ArrayRecord({"weight": FULL["weight"]})})


def log_of(*contents: RecordDict) -> RoundLog:
    messages = [Message(content, node, "train") for node, content in enumerate(contents, start=1)]
    return RoundLog(2, messages, Roster(), {}, [layout_of(FULL)])


def test_bytes_are_counted_by_role_in_both_directions() -> None:
    log = log_of(SENT, SENT, SHORT)
    reply = RecordDict({"arrays": FULL, "metrics": MetricRecord({"num-examples": 3})})
    log.record_reply(1, reply)
    log.record_reply(3, SHORT)
    record = log.close({})
    assert record.bytes_down == 2 * message_bytes(SENT) + message_bytes(SHORT)
    assert record.bytes_up == message_bytes(reply) + message_bytes(SHORT)
    for total, parts in (
        (record.bytes_down, record.bytes_down_by_role),
        (record.bytes_up, record.bytes_up_by_role),
    ):
        assert tuple(parts) == ROLES_AND_OTHER
        assert sum(parts.values()) == total
        assert parts["frozen"] == parts["counters"] == 0
    one = message_size.bytes_by_role(SHORT, [layout_of(FULL)])["trainable"]
    assert record.bytes_down_by_role["trainable"] == 3 * one
    assert record.bytes_up_by_role["trainable"] == 2 * one
    assert record.bytes_down_by_role["statistics"] == 2 * record.bytes_up_by_role["statistics"] > 80
    assert [client.bytes_up for client in record.clients] == [
        message_bytes(reply),
        0,
        message_bytes(SHORT),
    ]


def test_a_content_that_messages_share_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def counted(content: RecordDict, layouts: object) -> dict[str, int]:
        measured.append(content)
        return dict.fromkeys(ROLES_AND_OTHER, 7)

    monkeypatch.setattr(round_log, "bytes_by_role", counted)
    record = log_of(*[SENT] * 50, SHORT).close({})
    assert len(measured) == 2
    assert record.bytes_down == 51 * 7 * len(ROLES_AND_OTHER)


def test_without_replies_nothing_came_up() -> None:
    record = log_of(SENT).close({})
    assert dict(record.bytes_up_by_role) == dict.fromkeys(ROLES_AND_OTHER, 0)
    assert (record.late, record.missing) == (1, 0)


def test_a_client_that_lacks_a_part_of_the_model_is_missing() -> None:
    log = log_of(SENT, SENT, SENT)
    log.record_reply(1, SHORT)
    log.update(1, reason="missing: needs the model in full")
    log.record_reply(2, SHORT)
    assert log.has_reply(1)
    assert log.count("missing") == 1
    record = log.close({})
    assert (record.asked, record.missing, record.late, record.rejected) == (3, 1, 1, 0)


def test_arrays_that_no_model_has_count_as_other() -> None:
    stranger = Array("uint8", (900,), "x", bytes(900))
    log = log_of(SENT)
    log.record_reply(1, RecordDict({"arrays": ArrayRecord({"stranger": stranger})}))
    assert log.close({}).bytes_up_by_role["other"] > 900
