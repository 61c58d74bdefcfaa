"""OTLP exporters that tell once that the collector cannot be reached, and go on trying.

This module needs the extra ``opentelemetry``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

LOGGERS = ("opentelemetry.exporter.otlp", "opentelemetry.sdk")


class Reachability:
    """State of the connection: True if the collector took the last data sent to it.

    Parameters
    ----------
    warn : Callable
        Called once, with a text, when it first did not.
    """

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn, self._warned, self.failing = warn, False, False

    def note(self, reached: bool, endpoint: str) -> None:
        """Note that something was sent, or could not be sent, to an endpoint."""
        self.failing = not reached
        if self.failing and not self._warned:
            self._warned = True
            self._warn(f"opentelemetry: {endpoint} does not take what is sent to it")


class SpanSender(OTLPSpanExporter):
    """Sends spans."""

    def __init__(self, reachability: Reachability) -> None:
        super().__init__()
        self._reachability = reachability

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; note whether they were taken."""
        result = super().export(spans)
        self._reachability.note(result is SpanExportResult.SUCCESS, self._endpoint)
        return result


class MetricSender(OTLPMetricExporter):
    """Sends metrics."""

    def __init__(self, reachability: Reachability) -> None:
        super().__init__()
        self._reachability = reachability

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Send metrics; note whether they were taken."""
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self._reachability.note(result is MetricExportResult.SUCCESS, self._endpoint)
        return result


@contextmanager
def quiet_loggers() -> Iterator[None]:
    """Keep the library's own messages, several for each attempt to send, from the log."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
