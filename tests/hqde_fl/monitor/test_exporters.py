import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.exporters import Exporter, Exporters, make_exporters
from hqde_fl.monitor.exporters.run_metrics import MAX_NAMES, RunMetrics
from hqde_fl.monitor.schema import Metric, Reply, ResourceSample, Sent, Start


class Recorder(Exporter):
    name = "recorder"

    def __init__(self, fails_in=""):
        self.calls, self.fails_in = [], fails_in

    def _call(self, name):
        self.calls.append(name)
        if name == self.fails_in:
            raise OSError("no route")

    def open(self, run, rounds):
        self._call("open")
        return "here"

    def record(self, record):
        self._call("record")

    def round(self, line):
        self._call("round")

    def close(self):
        self._call("close")


def use(*exporters):
    group = Exporters(exporters)
    with group:
        places = group.open({"name": "demo"}, 3)
        group.records([Start(1.0, "a", 1, 1.0)])
        group.round({"round": 1})
    group.close()
    return places


def test_every_exporter_gets_everything_and_is_closed_once():
    first, second = Recorder(), Recorder()
    assert use(first, second) == {"recorder": "here"}
    assert first.calls == second.calls == ["open", "record", "round", "close"]


@pytest.mark.parametrize("method", ["open", "record", "round", "close"])
def test_an_exporter_that_fails_is_left_out_with_one_warning(method, caplog):
    broken, other = Recorder(method), Recorder()
    use(broken, other)
    assert other.calls == ["open", "record", "round", "close"]
    assert broken.calls[-1] == "close"
    assert broken.calls.index(method) >= len(broken.calls) - 2
    (message,) = [entry.getMessage() for entry in caplog.records]
    assert message == (
        "monitor: recorder failed, and gets nothing more of this run: OSError: no route"
    )


def test_nothing_is_exported_by_default():
    assert not make_exporters()


@pytest.mark.parametrize(
    ("settings", "extra"),
    [({"prometheus": "1"}, "prometheus"), ({"opentelemetry": True}, "opentelemetry")],
)
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, settings, extra):
    module = f"hqde_fl.monitor.exporters.{extra}.find_spec"
    monkeypatch.setattr(module, lambda name: None)
    with pytest.raises(ConfigError, match=rf"hqde-fl\[{extra}\]"):
        make_exporters(**settings)


def test_clients_in_flight_are_those_that_have_not_replied():
    metrics = RunMetrics(5)
    metrics.record(Sent(1.0, "train", 1, (1, 2, 3)))
    metrics.record(Reply(2.0, "train", 1, 2, "accepted"))
    metrics.record(Reply(2.0, "train", 1, 2, "late"))
    assert metrics.values("clients.in_flight") == {("train",): 2.0}


def test_rates_become_totals_and_unknown_values_are_left_out():
    metrics = RunMetrics(5)
    for time in (1.0, 3.0):
        metrics.record(ResourceSample(time, "a", 2.0, cpu=1.5, written=10.0, received=None))
    assert metrics.values("disk") == {("a", "written"): 40.0}
    assert metrics.values("network") == {}
    assert metrics.values("cpu.in_use") == {("a", "run"): 1.5}
    metrics.record(Metric(1.0, "loss", 0.5))
    metrics.record(Metric(2.0, "loss", None))
    assert metrics.values("training.metric") == {}


def test_a_user_with_a_name_for_every_batch_makes_no_series_without_end():
    metrics = RunMetrics(5)
    for number in range(2 * MAX_NAMES):
        metrics.record(Metric(1.0, f"loss-{number}", float(number)))
    metrics.record(Metric(2.0, "loss-0", 7.0))
    values = metrics.values("training.metric")
    assert len(values) == MAX_NAMES
    assert values["loss-0",] == 7.0


def test_tasks_of_a_pool_are_added_up_by_what_they_did():
    metrics = RunMetrics(5)
    line = {"kind": "train", "host": 0, "tasks": 3, "seconds": 1.5, "bytes": 10, "reruns": 1}
    for more in ({}, {"host": 1}, {"kind": "reduce", "reruns": 0}):
        metrics.pool(line | more)
    assert metrics.values("pool.tasks") == {("train",): 6, ("reduce",): 3}
    assert metrics.values("pool.duration") == {("train",): 3.0, ("reduce",): 1.5}
    assert metrics.values("pool.size") == {("train",): 20, ("reduce",): 10}
    assert metrics.values("pool.reruns") == {("train",): 2, ("reduce",): 0}


def test_an_exporter_need_not_know_of_a_pool():
    class Plain(Exporter):
        name = "plain"

        def open(self, run, rounds):
            return "there"

        def record(self, record):
            raise AssertionError

        def round(self, line):
            raise AssertionError

        def close(self):
            pass

    with Exporters([Plain()]) as exporters:
        exporters.pool({"kind": "train"})
        assert exporters.open({}, 1) == {"plain": "there"}
