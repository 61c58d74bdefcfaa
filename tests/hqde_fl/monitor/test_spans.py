import threading

import numpy as np
import pytest
import torch

from hqde_fl.monitor import spans
from hqde_fl.monitor.schema import Metric, Reply, Sent, Span
from hqde_fl.monitor.spans import (
    CollectedRecords,
    add_reported_training,
    add_span,
    alternating,
    client_call,
    client_scope,
    is_recording,
    note_reply,
    note_sent,
    record_training_metric,
    recorded_by,
    span,
)


@pytest.fixture
def collected():
    records = CollectedRecords()
    with recorded_by(records):
        yield records.records
    assert not is_recording()


def test_without_a_recorder_nothing_happens():
    records = CollectedRecords()
    with span("x"), client_call(1, 2):
        record_training_metric("loss", 1.0)
        add_span("y", 0.0, 1.0)
    assert list(alternating([1, 2], "wait", "screen")) == [1, 2]
    assert records.records == []


def test_spans_inherit_round_and_client(collected):
    with span("round", round=3), span("screen", client=5), span("inner"):
        pass
    inner, screen, whole = collected
    assert (inner.name, inner.round, inner.client, inner.parent) == ("inner", 3, 5, "screen")
    assert (screen.round, screen.client, screen.parent) == (3, 5, "round")
    assert (whole.round, whole.client, whole.parent) == (3, None, None)
    assert whole.time <= screen.time <= inner.time
    assert whole.seconds >= screen.seconds >= inner.seconds >= 0


def test_a_function_is_measured_in_each_call(collected):
    @span("work")
    def twice(number):
        """Return the double."""
        return 2 * number

    assert twice.__doc__ == "Return the double."
    assert [twice(2), twice(number=3)] == [4, 6]
    assert [record.name for record in collected] == ["work", "work"]


def test_a_span_ends_with_an_exception(collected):
    with pytest.raises(KeyError), span("round", round=1), span("inner"):
        raise KeyError
    assert [record.name for record in collected] == ["inner", "round"]
    with span("next"):
        pass
    assert collected[-1].parent is None


def test_a_recorder_that_comes_or_goes_within_a_span():
    records = CollectedRecords()
    with span("before"), recorded_by(records), span("within"):
        pass
    with recorded_by(records):
        outer = span("cut")
        outer.__enter__()
    outer.__exit__(None, None, None)
    with recorded_by(records), span("after"):
        pass
    assert [(record.name, record.parent) for record in records.records] == [
        ("within", None),
        ("after", None),
    ]


def test_threads_have_spans_of_their_own(collected):
    inside, done = threading.Event(), threading.Event()

    def work():
        inside.wait()
        with span("thread"):
            pass
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    with span("main", round=1):
        inside.set()
        done.wait()
    thread.join()
    thread_span, main = collected
    assert (thread_span.parent, thread_span.round) == (None, None)
    assert (main.name, main.round) == ("main", 1)


def test_several_recorders_get_the_same(collected):
    second = CollectedRecords()
    with recorded_by(second), span("both"):
        pass
    with span("one"):
        pass
    assert [record.name for record in second.records] == ["both"]
    assert [record.name for record in collected] == ["both", "one"]


def test_waiting_and_working_alternate(collected):
    with span("round", round=2):
        for number in alternating(range(3), "wait", "screen"):
            with span("screen", client=number):
                pass
    *clients, wait, screen, whole = collected
    assert [(s.client, s.parent) for s in clients] == [(0, "screen"), (1, "screen"), (2, "screen")]
    assert [(s.name, s.parent, s.round) for s in (wait, screen)] == [
        ("wait", "round", 2),
        ("screen", "round", 2),
    ]
    assert wait.seconds + screen.seconds <= whole.seconds
    assert screen.seconds >= sum(client.seconds for client in clients)
    assert wait.until <= whole.end + 1e-3


def test_a_reader_that_stops_and_a_source_that_raises(collected):
    def failing():
        yield 1
        raise ConnectionError

    with span("round"):
        replies = alternating([1, 2], "wait", "screen")
        assert next(replies) == 1
        replies.close()
        with pytest.raises(ConnectionError):
            list(alternating(failing(), "wait", "screen"))
        with span("next"):
            pass
    assert [record.name for record in collected] == [*["wait", "screen"] * 2, "next", "round"]
    assert collected[4].parent == "round"


def test_no_replies_are_waiting_alone(collected):
    assert list(alternating([], "wait", "screen")) == []
    assert [record.name for record in collected] == ["wait"]


def test_phases_of_a_call_around_the_training(collected):
    with span("wait"), client_call(4, 7), span("train"), span("epoch"):
        record_training_metric("loss", 0.5, epoch=1, batch=2)
    metric, epoch, train, decode, encode, wait = collected
    assert metric == Metric(metric.time, "loss", 0.5, round=4, client=7, epoch=1, batch=2)
    assert [(s.name, s.round, s.client, s.parent) for s in (epoch, train, decode, encode)] == [
        ("epoch", 4, 7, "train"),
        ("train", 4, 7, None),
        ("decode", 4, 7, None),
        ("encode", 4, 7, None),
    ]
    assert decode.time <= train.time
    assert encode.time == pytest.approx(train.end)
    assert (wait.client, wait.parent) == (None, None)


def test_a_call_without_spans_of_its_own_trains_all_the_time(collected):
    with pytest.raises(ValueError, match="of the client"), client_call(1, 2):
        raise ValueError("of the client")
    with client_call(1, 3, "evaluate"):
        pass
    assert [(s.name, s.client) for s in collected] == [("train", 2), ("evaluate", 3)]


def test_a_reported_training_time_counts_where_none_was_measured(collected):
    with span("round", round=1):
        with client_call(1, 0):
            pass
        add_reported_training(1, 0, 5.0)
        add_reported_training(1, 1, 5.0)
        add_reported_training(2, 0, 5.0)
    trained = [(s.round, s.client, s.seconds) for s in collected if s.name == "train"]
    assert trained[0][:2] == (1, 0)
    assert trained[1:] == [(1, 1, 5.0), (2, 0, 5.0)]


def test_what_was_sent_and_answered(collected):
    note_sent(1, [3, 4])
    note_reply(1, 3, "late")
    sent, reply = collected
    assert sent == Sent(sent.time, "train", 1, (3, 4))
    assert reply == Reply(reply.time, "train", 1, 3, "late")


def test_a_span_that_was_measured_elsewhere(collected):
    with client_scope(2, 9):
        add_span("transfer", 10.0, -0.5)
    add_span("wait", 10.0, 1.0, round=1, client=3, until=12.0)
    assert collected == [
        Span(10.0, "transfer", 0.0, 2, 9),
        Span(10.0, "wait", 1.0, 1, 3, until=12.0),
    ]


def test_a_metric_that_is_no_number_is_left_out_with_one_warning(collected, caplog):
    spans._refused.clear()
    for value in ("high", None, 0.5):
        record_training_metric("accuracy", value)
    assert [record.value for record in collected] == [0.5]
    assert [record.getMessage() for record in caplog.records] == [
        "metric 'accuracy' is not a number, but 'high'"
    ]


def test_a_metric_of_other_types_is_recorded_as_its_columns_are(collected):
    loss = torch.tensor(0.5, requires_grad=True)
    record_training_metric(7, loss, epoch=np.int64(3), batch="first")
    record_training_metric("\ud800", np.float32(2.0), epoch=torch.tensor(4), batch=float("inf"))
    record_training_metric("beyond", 10**400)
    seen = [(one.name, one.value, one.epoch, one.batch) for one in collected]
    assert seen == [("7", 0.5, 3, None), ("?", 2.0, 4, None)]
    assert all(type(epoch) is int for *_, epoch, _ in seen)


def test_a_worker_keeps_a_limited_number_of_records():
    records = CollectedRecords(limit=2)
    with recorded_by(records):
        for number in range(5):
            record_training_metric("loss", number)
    assert ([record.value for record in records.records], records.dropped) == ([0.0, 1.0], 3)
