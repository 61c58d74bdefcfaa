"""A site sends traces and metrics of its node's calls if its environment asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.spans import is_recording
from hqde_fl.simulations.engines.deployment import site_calls
from hqde_fl.simulations.engines.deployment.site_calls import observed_call


def call() -> tuple[Any, Context]:
    metadata = SimpleNamespace(message_type="train", group_id="3")
    context = Context(
        run_id=5, node_id=77, node_config={"partition-id": 2}, state=RecordDict(), run_config={}
    )
    return SimpleNamespace(metadata=metadata), context


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Start a collector, and yield the requests that it gets, by path."""
    got: dict[str, bytes] = {}

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield got
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_call_is_sent_to_the_collector(
    collected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp")
    monkeypatch.setenv("HQDE_FL_OPENTELEMETRY", "1")
    with observed_call(*call()):
        assert is_recording()
    assert not is_recording()
    assert {*collected} == {"/v1/traces", "/v1/metrics"}
    assert b"train" in collected["/v1/traces"]
    assert b"77" in collected["/v1/traces"]


def test_nothing_is_recorded_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HQDE_FL_OPENTELEMETRY", raising=False)
    with observed_call(*call()):
        assert not is_recording()


def test_a_site_without_the_library_trains_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQDE_FL_OPENTELEMETRY", "1")

    def missing(**settings: Any) -> None:
        raise ConfigError("pip install 'hqde-fl[opentelemetry]'")

    monkeypatch.setattr(site_calls, "make_exporters", missing)
    with observed_call(*call()):
        assert not is_recording()


def test_errors_of_the_call_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQDE_FL_LOG", "text")
    with pytest.raises(KeyError), observed_call(*call()):
        raise KeyError("x")
