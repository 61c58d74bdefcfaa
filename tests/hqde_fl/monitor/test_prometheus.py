import socket
import urllib.request
from urllib.error import URLError

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.exporters import Exporters
from hqde_fl.monitor.exporters.prometheus import Prometheus, host_and_port
from hqde_fl.monitor.schema import Gpu, Host, Reply, ResourceSample, Sent, Span

parser = pytest.importorskip("prometheus_client.parser")

NAME = 'a "name"\nwith \\ all'
ROUND = {
    "round": 1,
    "server": {"accuracy": 0.5, "loss": None, 'odd "metric"\n': 1.0},
    "clients-train": {"train-loss": 0.25},
    "clients-evaluate": {},
    "seconds": 2.0,
    "kept": 3,
    "filtered": 1,
    "rejected": 0,
    "failed": 0,
    "late": 0,
    "missing": 0,
    "skipped": 0,
    "void": False,
    "bytes-up": 10,
    "bytes-down": 20,
}
RECORDS = [
    Host(1.0, "a", 8, 1 << 30),
    Sent(1.0, "train", 1, (0, 1)),
    Reply(2.0, "train", 1, 0, "accepted"),
    Span(1.0, "wait", 1.5, 1, parent="round"),
    Span(1.0, "train", 0.75, 1, client=0),
    Span(1.0, "round", 2.0, 1),
    ResourceSample(
        2.0, "a", 1.0, 3, 1.5, 9.0, 1000, host_cpu=2.5, gpus=(Gpu(0.5, 77), Gpu(None, None))
    ),
]


@pytest.fixture
def served():
    """Return the function that serves the run and answers with a URL."""
    opened = []

    def serve(address="127.0.0.1:0"):
        exporter = Prometheus(address)
        opened.append(exporter)
        url = exporter.open({"name": NAME}, 9)
        for record in RECORDS:
            exporter.record(record)
        exporter.round(ROUND)
        return url

    yield serve
    for exporter in opened:
        exporter.close()


def fetch(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as reply:
        return reply.headers["Content-Type"], reply.read().decode()


def samples_of(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_endpoint_is_read_by_prometheus_own_parser(served):
    kind, text = fetch(served())
    assert kind.startswith("text/plain; version=0.0.4")
    samples = samples_of(text)
    assert samples["hqde_fl_run_info", ("name", NAME)] == 1
    assert samples["hqde_fl_round",] == 1
    assert samples["hqde_fl_rounds",] == 9
    assert samples["hqde_fl_server_metric", ("metric", "accuracy")] == 0.5
    assert samples["hqde_fl_server_metric", ("metric", 'odd "metric"\n')] == 1.0
    assert ("hqde_fl_server_metric", ("metric", "loss")) not in samples
    assert samples["hqde_fl_updates_total", ("outcome", "kept")] == 3
    assert samples["hqde_fl_clients_in_flight", ("task", "train")] == 1
    assert samples["hqde_fl_phases_duration_seconds_total", ("phase", "wait")] == 1.5
    assert samples["hqde_fl_clients_phases_duration_seconds_total", ("phase", "train")] == 0.75
    assert samples["hqde_fl_cpu_in_use", ("host", "a"), ("of", "host")] == 2.5
    assert samples["hqde_fl_gpu_utilization_ratio", ("gpu", "0"), ("host", "a")] == 0.5
    assert ("hqde_fl_gpu_memory_bytes", ("gpu", "1"), ("host", "a")) not in samples


def test_openmetrics_is_spoken_to_those_that_ask_for_it(served):
    kind, text = fetch(served(), Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_the_port_is_closed_with_the_run(served):
    exporter = Prometheus("0")
    url = exporter.open({}, 1)
    exporter.close()
    exporter.close()
    exporter.round(ROUND)
    with pytest.raises(URLError):
        fetch(url)


def test_a_port_in_use_is_a_warning_and_no_error(caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with Exporters([Prometheus(str(port))]) as exporters:
            exporters.open({}, 1)
            exporters.round(ROUND)
            assert not exporters
    assert "prometheus failed" in caplog.text
    assert f"{port}: " in caplog.text
    assert "in use" in caplog.text


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464),
        ("9464", "127.0.0.1", 9464),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("node-1.example.org:1", "node-1.example.org", 1),
    ],
)
def test_addresses(address, host, port):
    assert host_and_port(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    ["", ":9464", "127.0.0.1", "127.0.0.1:", "a:65536", "a:-1", "a:0x10", "::1:9464", "a b:1",
     "http://a:1", "a/b:1", "a:\N{ARABIC-INDIC DIGIT ONE}"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="HOST:PORT") as caught:
        host_and_port(address)
    assert repr(address) in str(caught.value)
