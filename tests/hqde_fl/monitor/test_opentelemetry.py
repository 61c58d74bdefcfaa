import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hqde_fl.monitor.exporters import Exporters, opentelemetry
from hqde_fl.monitor.exporters.opentelemetry import OpenTelemetry
from hqde_fl.monitor.schema import Metric, Span, Stop

metrics_sdk = pytest.importorskip("opentelemetry.sdk.metrics.export")
spans_sdk = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

RECORDS = [
    Span(10.0, "wait", 1.0, 1, parent="round", until=13.0),
    Span(10.5, "train", 0.5, 1, client=4, host="b"),
    Span(10.0, "round", 4.0, 1, host="a"),
    Span(13.5, "checkpoint", 0.5, 1, parent="round"),  # written after its round
    Span(20.0, "wait", 1.0, 2, parent="round"),  # of a round that never ends
    Metric(20.0, "loss", 0.5),
    Stop(21.0, "a", "interrupted"),
]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)


def test_a_round_is_a_trace_and_metrics_are_observed(monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=blue")
    spans, reader = spans_sdk.InMemorySpanExporter(), metrics_sdk.InMemoryMetricReader()
    exporter = OpenTelemetry(spans, reader)
    exporter.open({"name": "demo"}, 3)
    for record in RECORDS:
        exporter.record(record)
    data = reader.get_metrics_data()
    exporter.close()
    sent = spans.get_finished_spans()
    roots = {span.attributes["hqde_fl.round"]: span for span in sent if span.parent is None}
    assert {number: root.name for number, root in roots.items()} == {1: "round", 2: "round"}
    children = [span for span in sent if span.parent is not None]
    assert sorted(span.name for span in children) == ["checkpoint", "train", "wait", "wait"]
    for span in children:
        root = roots[span.attributes["hqde_fl.round"]]
        assert span.parent.span_id == root.context.span_id
        assert span.context.trace_id == root.context.trace_id
    wait, train = (next(s for s in children if s.name == name) for name in ("wait", "train"))
    assert (wait.start_time, wait.end_time) == (10 * 10**9, 13 * 10**9)
    assert wait.attributes["hqde_fl.seconds"] == 1.0
    assert (train.attributes["hqde_fl.client"], train.attributes["hqde_fl.host"]) == (4, "b")
    facts = train.resource.attributes
    assert (facts["service.name"], facts["hqde_fl.run.name"]) == ("hqde-fl", "demo")
    assert facts["team"] == "blue"
    (scope,) = data.resource_metrics[0].scope_metrics
    points = {metric.name: metric.data.data_points for metric in scope.metrics}
    assert points["hqde_fl.rounds"][0].value == 3
    (loss,) = points["hqde_fl.training.metric"]
    assert (loss.value, dict(loss.attributes)) == (0.5, {"metric": "loss"})
    waits = {point.attributes["phase"]: point.value for point in points["hqde_fl.phases.duration"]}
    assert waits["wait"] == 2.0


def export(monkeypatch, port):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    with Exporters([OpenTelemetry()]) as exporters:
        exporters.open({"name": "demo"}, 3)
        exporters.records(RECORDS)


def left_over():
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if "otel" in name.lower() or "opentelemetry" in name.lower()}


def test_everything_arrives_at_a_collector(monkeypatch):
    paths = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            export(monkeypatch, server.server_port)
        finally:
            server.shutdown()
            thread.join()
    assert set(paths) == {"/v1/traces", "/v1/metrics"}
    assert not left_over()


def test_a_collector_that_is_away_is_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(opentelemetry, "CLOSE_SECONDS", 0.2)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    export(monkeypatch, port)
    messages = [entry.getMessage() for entry in caplog.records]
    assert len([text for text in messages if "does not take" in text]) <= 1
    assert not [text for text in messages if "retry" in text.lower()]
