"""Serve the metrics of a run to Prometheus, by HTTP, while it goes on."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.exporters.base import Exporter
from hqde_fl.monitor.exporters.run_metrics import FAMILIES, PREFIX, RunMetrics
from hqde_fl.monitor.schema import Record

if TYPE_CHECKING:
    from prometheus_client.core import Metric

UNITS = {"s": "_seconds", "By": "_bytes", "1": "_ratio", "": ""}

POLL_SECONDS = 0.1
"""Interval at which the server looks whether it is to end."""

REQUEST_SECONDS = 10.0
"""Time that a client of the endpoint may take to send its request."""


@dataclass
class Prometheus(Exporter):
    """Serves ``http://HOST:PORT/metrics`` in Prometheus' text formats.

    Parameters
    ----------
    address : str
        ``HOST:PORT``, ``[IPv6]:PORT``, or only a port, then on the loopback interface. Port 0 is a
        free one, which is told when the run starts.

    Raises
    ------
    ConfigError
        If that is no address, or ``prometheus_client`` is not installed.
    """

    name = "prometheus"

    address: str
    _server: _Server | None = field(default=None, init=False, repr=False)
    _metrics: RunMetrics | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        host_and_port(self.address)
        if find_spec("prometheus_client") is None:
            raise ConfigError(
                "monitor.prometheus needs prometheus_client: pip install 'hqde-fl[prometheus]'"
            )

    def open(self, run: Mapping[str, str], rounds: int) -> str:
        """Open the port; return the endpoint's URL."""
        from prometheus_client import CollectorRegistry, MetricsHandler

        self._metrics = RunMetrics(rounds)
        registry = CollectorRegistry()
        registry.register(RunCollector(run, self._metrics))
        handler = type(
            "Handler", (MetricsHandler,), {"registry": registry, "timeout": REQUEST_SECONDS}
        )
        try:
            self._server = _Server(*host_and_port(self.address), handler)
        except OSError as error:
            raise OSError(f"{self.address}: {error}") from error
        self._server.begin()
        return self._server.url

    def record(self, record: Record) -> None:
        """Update the metrics."""
        if self._metrics is not None:
            self._metrics.record(record)

    def round(self, line: Mapping[str, Any]) -> None:
        """Update the metrics."""
        if self._metrics is not None:
            self._metrics.round(line)

    def pool(self, line: Mapping[str, Any]) -> None:
        """Update the metrics."""
        if self._metrics is not None:
            self._metrics.pool(line)

    def close(self) -> None:
        """Close the port."""
        server, self._server = self._server, None
        if server is not None:
            server.end()


class RunCollector:
    """Makes Prometheus' metrics of those of a run.

    Parameters
    ----------
    run : Mapping[str, str]
        The labels of ``hqde_fl_run_info``.
    metrics : RunMetrics
        The metrics.
    """

    def __init__(self, run: Mapping[str, str], metrics: RunMetrics) -> None:
        self._run, self._metrics = dict(run), metrics

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics that have a value."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            InfoMetricFamily,
        )

        yield InfoMetricFamily(f"{_plain(PREFIX)}run", "The run.", self._run)
        for name, family in FAMILIES.items():
            values = self._metrics.values(name)
            if not values:
                continue
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = make(
                _plain(PREFIX + name) + UNITS[family.unit], family.help, labels=family.labels
            )
            for labels, value in values.items():
                metric.add_metric(labels, value)
            yield metric


class _Server(ThreadingTCPServer):
    """The HTTP server of an endpoint, in threads that end with it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type) -> None:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(address[:2], handler)  # type: ignore[arg-type]
        self._thread = threading.Thread(
            target=self.serve_forever, args=(POLL_SECONDS,), name="prometheus", daemon=True
        )

    @property
    def url(self) -> str:
        """The URL of the metrics."""
        host, port = self.server_address[:2]
        host = host.decode() if isinstance(host, bytes | bytearray) else host
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def begin(self) -> None:
        """Serve, in a thread of its own."""
        self._thread.start()

    def end(self) -> None:
        """Stop to serve, and close the port."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Do nothing: a scraper that hangs up is no news."""


def host_and_port(address: str) -> tuple[str, int]:
    """Return the host and the port of an address.

    Raises
    ------
    ConfigError
        If it is none.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        host = "127.0.0.1"
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (port.isascii() and port.isdecimal() and int(port) < 2**16) or not _is_host(host):
        raise ConfigError(
            "monitor.prometheus must be HOST:PORT with a port of at most 65535, such as "
            f'"127.0.0.1:9464", found {address!r}'
        )
    return host, int(port)


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(text) and all(
            part and part.replace("-", "").isalnum() and part.isascii() for part in text.split(".")
        )
    return True


def _plain(name: str) -> str:
    return name.replace(".", "_")
