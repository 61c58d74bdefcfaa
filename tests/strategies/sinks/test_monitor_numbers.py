from dataclasses import dataclass
from typing import ClassVar

import pytest
from flwr.app import ArrayRecord

from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.monitor.schema import Gpu, Metric, ResourceSample, Span
from hqde_fl.monitor.spans import active_recorders, record_training_metric, span
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.sinks.monitor_numbers import MonitorNumbers
from hqde_fl.strategies.sinks.sink import Sink


@dataclass(eq=False)
class Kept(Sink):
    """Keeps what it is sent."""

    extra: ClassVar[str] = "kept"
    module: ClassVar[str] = "json"

    def open(self):
        self.sent = []

    def write(self, step, numbers):
        self.sent.append(numbers)

    def close(self, status):
        self.status = status


def test_numbers_are_those_since_the_last_round():
    numbers = MonitorNumbers()
    for record in (
        Span(1.0, "wait", 1.5, 1, parent="round"),
        Span(1.0, "wait", 0.5, 1, parent="round"),
        Span(1.0, "train", 9.0, 1, client=3),
        Metric(1.0, "norm", 2.0),
        Metric(1.0, "bad", float("nan")),
        Metric(1.0, "none", None),
    ):
        numbers.add(record)
    assert numbers.take() == {"phases/wait": 2.0, "metrics/norm": 2.0}
    assert numbers.take() == {}


@pytest.mark.parametrize("error", [None, ValueError()])
def test_sinks_get_the_numbers_of_a_monitor_while_a_run_goes_on(monkeypatch, error):
    sample = ResourceSample(1.0, "a", 1.0, cpu=1.5, memory=100, gpus=(Gpu(0.5, 7), Gpu(None, None)))
    monkeypatch.setattr(PerformanceMonitor, "latest", sample)
    sink, model = Kept(), ArrayRecord()
    with PerformanceMonitor(interval=60.0) as monitor:
        sink.on_start(model, 1)
        with span("round", round=1), span("wait"):
            pass
        record_training_metric("norm", 3.0)
        sink.on_round(RoundRecord(1), model)
        sink.on_end(model) if error is None else sink.on_stop(error)
        assert active_recorders() == (monitor,)
    (numbers,) = sink.sent
    expected = {
        "metrics/norm": 3.0,
        "resources/cpu-cores": 1.5,
        "resources/memory-bytes": 100.0,
        "resources/gpu-0-utilisation": 0.5,
        "resources/gpu-0-memory-bytes": 7.0,
    }
    assert expected.items() <= numbers.items()
    assert numbers["phases/wait"] >= 0.0


def test_without_a_monitor_nothing_is_recorded_for_a_sink():
    sink, model = Kept(), ArrayRecord()
    sink.on_start(model, 1)
    assert active_recorders() == ()
    sink.on_round(RoundRecord(1), model)
    assert not [name for name in sink.sent[0] if name.startswith(("phases", "resources"))]
