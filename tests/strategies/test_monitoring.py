"""A monitor in a Flower app of one's own, whose clients know nothing of it."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import ConfigRecord

from hqde_fl.errors import RunError
from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.monitor.schema import Record, Reply, Sent, Span, Stop
from hqde_fl.monitor.spans import CollectedRecords, is_recording, recorded_by
from hqde_fl.protocol.records import to_record
from hqde_fl.strategies.callbacks import Callback
from hqde_fl.strategies.monitoring import MonitorCallback
from tests.strategies.federation import (
    HOSTILE,
    MODEL,
    Recorder,
    crash,
    federation,
    metric,
    run,
    run_void,
    strategy_with,
)


class Own(Callback):
    """A callback whose work on a state counts as a phase of its own."""

    phase = "upload"


def monitored(tamper: Any = None, **options: Any) -> list[Record]:
    callback = MonitorCallback()
    recorder = Recorder()
    run(strategy_with(recorder, callbacks=[Own(), callback, recorder], **options), tamper)
    return callback.monitor.records()


def phases(records: list[Record], number: int) -> list[str]:
    spans = [r for r in records if isinstance(r, Span) and r.round == number]
    return [s.name for s in sorted(spans, key=lambda s: s.time) if s.parent == "round"]


def test_a_run_is_recorded_from_start_to_end() -> None:
    records = monitored(fraction_evaluate=0.4)
    assert not is_recording()
    assert records[-1] == Stop(records[-1].time, records[0].host, "finished")  # type: ignore[attr-defined]
    assert phases(records, 0) == ["record", "upload", "record"]
    training = ["address", "select", "address", "wait", "screen", "wait", "screen", "aggregate"]
    after = ["evaluate", "record", "upload", "record"]
    assert sorted(phases(records, 2)) == sorted([*training, *after])
    sent = [(r.task, r.round, len(r.clients)) for r in records if isinstance(r, Sent)]
    assert sent == [(task, n, k) for n in (1, 2) for task, k in (("train", 10), ("evaluate", 4))]


def test_clients_without_spans_train_as_long_as_their_call() -> None:
    records = monitored()
    spans = [r for r in records if isinstance(r, Span) and r.client == 3 and r.round == 1]
    assert [s.name for s in spans] == ["wait", "train", "screen"]


def test_what_becomes_of_replies() -> None:
    records = monitored(metric("num-examples", -1))
    outcomes = {r.client: r.outcome for r in records if isinstance(r, Reply)}
    assert outcomes.pop(HOSTILE).startswith("rejected: ")
    assert set(outcomes.values()) == {"accepted"}
    failed = [r.outcome for r in monitored(crash) if isinstance(r, Reply) and r.client == HOSTILE]
    assert failed == ["failed: ValueError: out of luck"] * 2


def test_training_times_of_other_processes_are_those_they_report() -> None:
    recorder = Recorder()
    strategy, records = strategy_with(recorder), CollectedRecords()
    grid = federation(metric("train-seconds", 0.25))
    messages = strategy.configure_train(1, to_record(MODEL), ConfigRecord(), grid)
    replies = list(grid.send_and_receive(messages))
    with recorded_by(records):
        strategy.aggregate_train(1, replies[:-1])
    spans = [r for r in records.records if isinstance(r, Span)]
    train = [(s.client, s.round, s.seconds) for s in spans if s.name == "train"]
    assert train == [(HOSTILE, 1, 0.25)]
    phases = [s.name for s in spans if s.client is None]
    assert phases == ["screen", "wait", "screen", "aggregate"]
    late = [(r.client, r.outcome) for r in records.records if isinstance(r, Reply)][-1]
    assert late == (9, "late")


def test_a_run_that_fails_stops_the_monitor() -> None:
    monitor = PerformanceMonitor()
    callback = MonitorCallback(monitor)
    assert callback.monitor is monitor
    recorder = Recorder()
    run_void(strategy_with(recorder, callbacks=[callback, recorder], quorum=11))
    monitor.start()
    callback.on_stop(RunError("no aggregate"))
    *_, stop = monitor.records()
    assert stop == Stop(stop.time, stop.host, "RunError: no aggregate")  # type: ignore[attr-defined]


def test_the_result_does_not_depend_on_it() -> None:
    recorder = Recorder()
    model = run(strategy_with(recorder, callbacks=[MonitorCallback(), recorder]))
    plain = run(strategy_with(Recorder()))
    assert all(torch.equal(model[name], tensor) for name, tensor in plain.items())
