import os
import threading
from types import SimpleNamespace

import psutil
import pyarrow.parquet as pq
import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.monitor import performance_monitor
from hqde_fl.monitor.parquet import write_parquet
from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.monitor.sampler import Sampler
from hqde_fl.monitor.schema import (
    Host,
    Metric,
    ResourceSample,
    Sent,
    Span,
    Start,
    Stop,
    append_records,
    file_keys,
    read_records,
    to_mapping,
)
from hqde_fl.monitor.spans import is_recording, note_sent, record_training_metric, span
from hqde_fl.monitor.summary import summarize


def kinds(records):
    return [record.kind for record in records]


def test_a_block_is_recorded(tmp_path):
    with PerformanceMonitor(tmp_path / "run") as monitor:
        assert is_recording()
        with span("work", round=1):
            monitor.record_training_metric("loss", 0.5, epoch=1)
        note_sent(1, [2**63, 4])
    assert not is_recording()
    records = list(read_records(tmp_path / "run" / "monitor.jsonl"))
    assert kinds(records)[0] == "start"
    assert kinds(records)[-1] == "stop"
    assert sorted(kinds(records)[1:-1]) == ["host", "metric", "sample", "sent", "span"]
    start, stop = records[0], records[-1]
    assert isinstance(start, Start)
    assert (start.pid, start.interval) == (os.getpid(), 1.0)
    assert stop == Stop(stop.time, start.host, "finished")
    assert monitor.records() == records
    assert monitor.failure is None


def test_what_a_sample_holds(tmp_path):
    sampler = Sampler(directory=tmp_path, driver=os.getpid())
    host, sample = sampler.describe_host(), sampler.sample()
    sampler.close()
    assert isinstance(host, Host)
    assert (host.host, host.cores) == (sample.host, os.cpu_count())
    assert host.memory > sample.host_memory > sample.memory > 0
    assert sample.driver_memory <= sample.memory
    assert sample.seconds > 0
    assert min(sample.cpu, sample.host_cpu, sample.received, sample.sent, sample.loopback) >= 0
    assert sample.disk_free > 0
    assert 0 < sample.monitor_seconds < sampler.sample().monitor_seconds


def nic(received=0, sent=0):
    return SimpleNamespace(bytes_recv=received, bytes_sent=sent)


def test_rates_are_those_since_the_last_sample(monkeypatch):
    counters = {"eth0": nic(), "lo": nic(), "tun1": nic()}
    times, clock = SimpleNamespace(user=0.0, system=1.0, idle=5.0), 100.0
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: counters)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    monkeypatch.setattr("hqde_fl.monitor.sampler.time.monotonic", lambda: clock)
    sampler = Sampler()
    clock, times = 102.0, SimpleNamespace(user=3.0, system=1.0, idle=9.0)
    counters = {"eth0": nic(2000, 600), "lo": nic(50, 50), "tun1": nic(20)}
    sample = sampler.sample()
    assert (sample.seconds, sample.host_cpu) == (2.0, 1.5)
    assert (sample.received, sample.sent, sample.loopback) == (1010.0, 300.0, 25.0)
    clock, counters = 103.0, {"eth0": nic()}  # an interface was reset, others are gone
    sample = sampler.sample()
    assert (sample.received, sample.sent, sample.loopback) == (0.0, 0.0, 0.0)


def test_without_a_directory_records_stay_in_memory():
    monitor = PerformanceMonitor()

    @monitor
    def work():
        """Work."""
        record_training_metric("accuracy", 0.5)
        return 7

    assert (work.__doc__, work()) == ("Work.", 7)
    assert kinds(monitor.records()).count("metric") == 1
    assert monitor.summary()["metrics"] == {"accuracy": 0.5}
    assert isinstance(monitor.latest, ResourceSample)


def test_blocks_and_calls_within_others_are_one_record():
    monitor = PerformanceMonitor()

    @monitor
    def evaluate():
        with span("inner"):
            pass

    with monitor:
        evaluate()
        with span("outer"):
            pass
    with span("after"):
        pass
    assert [record.name for record in monitor.records() if isinstance(record, Span)] == [
        "inner",
        "outer",
    ]
    assert kinds(monitor.records()).count("stop") == 1


def test_it_can_be_started_again(tmp_path):
    monitor = PerformanceMonitor(tmp_path)
    with monitor, monitor:
        monitor.start()
    monitor.stop()
    first = kinds(monitor.records())
    assert (first.count("start"), first.count("stop")) == (1, 1)
    with (tmp_path / "monitor.jsonl").open("a") as file:
        file.write('{"kind":"sam')  # as after kill -9
    with PerformanceMonitor(tmp_path):
        pass
    again = kinds(monitor.records())
    assert again[: len(first)] == first
    assert (again.count("start"), again.count("stop")) == (2, 2)
    assert len(pq.read_table(tmp_path / "monitor.parquet")) == len(again)


def test_an_exception_of_the_program_is_the_reason(tmp_path):
    with pytest.raises(ValueError, match="of the user"), PerformanceMonitor(tmp_path):
        raise ValueError("of the user")
    *_, stop = read_records(tmp_path / "monitor.jsonl")
    assert stop.reason == "ValueError: of the user"


def test_an_error_of_the_monitor_is_not_one_of_the_program(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with PerformanceMonitor(tmp_path / "file" / "run") as monitor, span("work"):
        pass
    assert monitor.failure.startswith("NotADirectoryError")
    assert not is_recording()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the monitor failed and records no more; the run goes on" in caplog.text


def test_a_sampler_that_fails_ends_recording(tmp_path, monkeypatch, caplog):
    failed = threading.Event()

    class Failing(Sampler):
        def sample(self):
            raise RuntimeError("no such counter")

        def close(self):
            failed.set()

    monkeypatch.setattr(performance_monitor, "Sampler", Failing)
    with PerformanceMonitor(tmp_path, interval=0.05) as monitor:
        assert failed.wait(10)
        assert not is_recording()
    *_, stop = read_records(tmp_path / "monitor.jsonl")
    assert stop.reason == "monitor failed: RuntimeError: no such counter"
    assert monitor.failure == "RuntimeError: no such counter"
    assert len(caplog.records) == 1


def test_listeners_and_sources_fail_alone(caplog):
    heard, asked = [], []
    monitor = PerformanceMonitor()

    def failing_listener(records):
        raise OSError("port closed")

    def failing_source():
        asked.append(1)
        raise OSError("node lost")

    monitor.add_listener(failing_listener)
    monitor.add_listener(heard.extend)
    monitor.add_source(failing_source)
    monitor.add_source(lambda: [Metric(1.0, "of a node", 2.0)])
    with monitor:
        pass
    assert Metric(1.0, "of a node", 2.0) in heard
    assert heard == monitor.records()
    assert monitor.failure is None
    assert len(asked) == 1
    assert sorted(record.getMessage() for record in caplog.records) == [
        "a listener failed and is told no more (OSError: port closed)",
        "a source of further records failed and is not asked again (OSError: node lost)",
    ]


@pytest.mark.parametrize("interval", [0.0, 0.01, -1.0, 3601.0, float("nan")])
def test_impossible_intervals(interval):
    with pytest.raises(ConfigError, match=r"^interval needs to be in \[0.05, 3600\] s, found "):
        PerformanceMonitor(interval=interval)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_records_nothing():
    monitor = PerformanceMonitor()
    with monitor:
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(write, str(is_recording()).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(read, 10) == b"False"
        assert is_recording()
    os.close(read)
    os.close(write)


def test_the_table_has_the_same_records(tmp_path):
    with PerformanceMonitor(tmp_path) as monitor:
        note_sent(1, [2**63, 4])
        with span("work", round=1, client=2**63):
            record_training_metric("loss", float("nan"))
    rows = pq.read_table(tmp_path / "monitor.parquet").to_pylist()
    present = [{key: v for key, v in row.items() if v is not None} for row in rows]
    assert present == [to_mapping(record) for record in monitor.records()]
    keys = {key for record in monitor.records() for key in file_keys(type(record)).values()}
    assert keys <= rows[0].keys()


def test_a_table_of_a_damaged_file(tmp_path):
    assert write_parquet(tmp_path) is None
    path = tmp_path / "monitor.jsonl"
    path.write_text('{"kind":"sp')
    assert write_parquet(tmp_path) is None
    append_records(path, [Span(1.0, "work", 2.0)])
    assert pq.read_table(write_parquet(tmp_path)).to_pylist()[0]["name"] == "work"


def test_a_table_with_a_message_to_very_many_clients(tmp_path):
    append_records(tmp_path / "monitor.jsonl", [Sent(1.0, "train", 1, tuple(range(300_000)))])
    table = pq.read_table(write_parquet(tmp_path))
    assert len(table["clients"][0]) == 300_000


def test_sums_over_hosts_and_clients():
    records = [
        ResourceSample(1.0, "a", 2.0, cpu=1.5, memory=10),
        ResourceSample(3.0, "a", 2.0, cpu=0.5, memory=30),
        ResourceSample(1.0, "b", 1.0, cpu=3.0, memory=20),
        Span(1.0, "wait", 2.0, round=1, parent="round"),
        Span(1.0, "wait", 3.0, round=2, parent="round"),
        Span(1.0, "wait", 4.0, round=1, client=2),
        Metric(1.0, "loss", 2.0),
        Metric(2.0, "loss", 1.0),
    ]
    assert summarize(records) == {
        "seconds": 4.0,
        "cpu-seconds": 7.0,
        "peak-memory": 30,
        "peak-gpu-memory": None,
        "mean-gpu-utilisation": None,
        "spans": {"wait": 5.0},
        "client-spans": {"wait": 4.0},
        "metrics": {"loss": 1.0},
    }
