"""Programs that a monitor publishes its records to while a run goes on."""

from __future__ import annotations

from hqde_fl.monitor.exporters.base import Exporter, Exporters

__all__ = ["Exporter", "Exporters", "make_exporters"]


def make_exporters(prometheus: str = "", opentelemetry: bool = False) -> Exporters:
    """Return the exporters that a configuration asks for; none by default.

    Parameters
    ----------
    prometheus : str, default=""
        The address of an endpoint for Prometheus, ``HOST:PORT``; none if empty.
    opentelemetry : bool, default=False
        Send traces and metrics to an OpenTelemetry collector, as the ``OTEL_...`` variables say.

    Raises
    ------
    ConfigError
        If the address is none, or a library that is needed is not installed.
    """
    exporters: list[Exporter] = []
    if prometheus:
        from hqde_fl.monitor.exporters.prometheus import Prometheus

        exporters.append(Prometheus(prometheus))
    if opentelemetry:
        from hqde_fl.monitor.exporters.opentelemetry import OpenTelemetry

        exporters.append(OpenTelemetry())
    return Exporters(exporters)
