"""Publish a run as OpenTelemetry traces and metrics, by OTLP.

Every round is a trace: its root is the span ``round``, its children are the phases of the round and
of the clients. The metrics are those of ``run_metrics``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.exporters.base import Exporter, log
from hqde_fl.monitor.exporters.run_metrics import FAMILIES, PREFIX, RunMetrics
from hqde_fl.monitor.schema import Record, Span, Stop

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

    from hqde_fl.monitor.exporters.otlp import Reachability

SERVICE = "hqde-fl"

MAX_QUEUED_SPANS = 1 << 16
"""Spans that wait to be sent; a round of many clients ends with thousands at once."""

MAX_KEPT_SPANS = 1 << 16
"""Spans of a round that are kept until its own span arrives."""

CLOSE_SECONDS = 5.0
"""Time to send what is left at the end of a run."""

NANOSECONDS = 1_000_000_000


@dataclass
class OpenTelemetry(Exporter):
    """Sends traces and metrics to an OpenTelemetry collector.

    The standard environment variables say where and how, ``OTEL_EXPORTER_OTLP_ENDPOINT`` above all;
    without any that is ``http://localhost:4318``.

    Parameters
    ----------
    span_exporter : SpanExporter, optional
        Gets the spans, instead of an OTLP exporter.
    metric_reader : MetricReader, optional
        Reads the metrics, instead of one that sends them by OTLP.

    Raises
    ------
    ConfigError
        If OpenTelemetry's SDK or its OTLP exporter is not installed.
    """

    name = "opentelemetry"

    span_exporter: SpanExporter | None = None
    metric_reader: MetricReader | None = None
    _metrics: RunMetrics | None = field(default=None, init=False, repr=False)
    _tracers: TracerProvider | None = field(default=None, init=False, repr=False)
    _tracer: Tracer | None = field(default=None, init=False, repr=False)
    _meters: MeterProvider | None = field(default=None, init=False, repr=False)
    _waiting: dict[int, list[Span]] = field(default_factory=dict, init=False, repr=False)
    _round: tuple[int, Context] | None = field(default=None, init=False, repr=False)
    _reachability: Reachability | None = field(default=None, init=False, repr=False)
    _quiet: ExitStack = field(default_factory=ExitStack, init=False, repr=False)
    _senders: ExitStack = field(default_factory=ExitStack, init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            found = find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp")
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ConfigError(
                "monitor.opentelemetry needs OpenTelemetry's SDK and OTLP exporter: "
                "pip install 'hqde-fl[opentelemetry]'"
            )

    def open(self, run: Mapping[str, str], rounds: int) -> None:
        """Connect to the collector."""
        from opentelemetry.sdk.resources import Resource

        name = os.environ.get("OTEL_SERVICE_NAME") or SERVICE
        facts = {f"{PREFIX}run.{key}": value for key, value in run.items()}
        resource = Resource.create({**facts, "service.name": name})
        spans, reader = self._destinations()
        self._metrics = RunMetrics(rounds)
        self._tracers = _tracer_provider(resource, spans)
        self._meters = _meter_provider(resource, reader)
        self._tracer = self._tracers.get_tracer(SERVICE)
        self._observe(self._metrics)

    def _destinations(self) -> tuple[SpanExporter, MetricReader]:
        """Return what the spans are given to and what reads the metrics: OTLP, where not given."""
        spans, reader = self.span_exporter, self.metric_reader
        if spans is None or reader is None:
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

            from hqde_fl.monitor.exporters import otlp

            self._quiet.enter_context(otlp.quiet_loggers())
            self._reachability = otlp.Reachability(log.warning)
            if spans is None:
                spans = otlp.SpanSender(self._reachability)
                self._senders.callback(spans.shutdown)
            if reader is None:
                sender = otlp.MetricSender(self._reachability)
                self._senders.callback(sender.shutdown)
                reader = PeriodicExportingMetricReader(sender)
        return spans, reader

    def record(self, record: Record) -> None:
        """Update the metrics; send a round's spans once it has ended."""
        if self._metrics is None:
            return
        self._metrics.record(record)
        if isinstance(record, Span):
            self._add_span(record)
        elif isinstance(record, Stop):
            self._send_rest()

    def round(self, line: Mapping[str, Any]) -> None:
        """Update the metrics."""
        if self._metrics is not None:
            self._metrics.round(line)

    def pool(self, line: Mapping[str, Any]) -> None:
        """Update the metrics."""
        if self._metrics is not None:
            self._metrics.pool(line)

    def close(self) -> None:
        """Send what is left, for a few seconds at most, and not to a collector that is away."""
        tracers, meters = self._tracers, self._meters
        if tracers is None or meters is None:
            self._quiet.close()
            return
        self._send_rest()
        self._tracers = self._meters = self._metrics = None

        def end() -> None:
            tracers.shutdown()
            meters.shutdown(1000 * CLOSE_SECONDS)

        last = threading.Thread(target=end, name="opentelemetry-end", daemon=True)
        last.start()
        if self._reachability is None or not self._reachability.failing:
            last.join(CLOSE_SECONDS)
        self._senders.close()  # a thread that tries to send something again gives up
        last.join(CLOSE_SECONDS)
        self._quiet.close()

    def _add_span(self, span: Span) -> None:
        if span.round is None:
            self._send(span, None)
        elif span.name == "round" and span.client is None:
            context = self._send(span, None)
            for child in self._waiting.pop(span.round, ()):
                self._send(child, context)
            self._round = span.round, context
        elif self._round is not None and self._round[0] == span.round:
            self._send(span, self._round[1])  # it was measured before, and written after, the round
        else:
            waiting = self._waiting.setdefault(span.round, [])
            if len(waiting) < MAX_KEPT_SPANS:
                waiting.append(span)

    def _send_rest(self) -> None:
        """Send the spans of rounds that have not ended, with a ``round`` around them as well."""
        for number, spans in list(self._waiting.items()):
            begin = min(span.time for span in spans)
            end = max(span.end for span in spans)
            self._add_span(Span(time=begin, name="round", seconds=end - begin, round=number))

    def _send(self, span: Span, parent: Context | None) -> Context:
        """Send a span; return the context of its children."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        assert self._tracer is not None
        facts: dict[str, Any] = {"round": span.round, "client": span.client, "host": span.host}
        facts["seconds"] = span.seconds if span.until is not None else None
        sent = self._tracer.start_span(
            span.name,
            context=Context() if parent is None else parent,
            attributes={f"{PREFIX}{key}": v for key, v in facts.items() if v is not None},
            start_time=round(span.time * NANOSECONDS),
        )
        sent.end(round(span.end * NANOSECONDS))
        return set_span_in_context(sent, Context())

    def _observe(self, metrics: RunMetrics) -> None:
        """Let the collector's reader ask for the values of all metrics."""
        assert self._meters is not None
        meter = self._meters.get_meter(SERVICE)
        for name, family in FAMILIES.items():
            make = (
                meter.create_observable_counter
                if family.kind == "counter"
                else meter.create_observable_gauge
            )
            make(
                PREFIX + name,
                callbacks=[_observation(metrics, name, family.labels)],
                unit=family.unit,
                description=family.help,
            )


def _observation(
    metrics: RunMetrics, name: str, labels: tuple[str, ...]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    from opentelemetry.metrics import Observation

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        for values, number in metrics.values(name).items():
            yield Observation(number, dict(zip(labels, values, strict=True)))

    return observe


def _tracer_provider(resource: Resource, exporter: SpanExporter) -> TracerProvider:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    queue = None if "OTEL_BSP_MAX_QUEUE_SIZE" in os.environ else MAX_QUEUED_SPANS
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=queue))
    return provider


def _meter_provider(resource: Resource, reader: MetricReader) -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider

    return MeterProvider([reader], resource=resource, shutdown_on_exit=False)
