"""Logs, metrics and traces of a real node's calls, on the node itself.

The site decides, in its own environment: nothing is recorded unless that asks for it. A ClientApp's
process lives as long as its call, so metrics are sent to an OpenTelemetry collector at its end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from logging import INFO, WARNING

from flwr.app import Context, Message

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.exporters import make_exporters
from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.engines.monitored_call import monitored_call, monitored_round
from hqde_fl.simulations.recording.json_log import log_round, start_json_log

TRACES_VARIABLE = "HQDE_FL_OPENTELEMETRY"
"""Environment variable that is 1 where a node sends traces and metrics of its calls."""


@contextmanager
def observed_call(message: Message, context: Context) -> Iterator[None]:
    """Log and record a call of the ClientApp in the block, as the node's environment says."""
    kind, group = message.metadata.message_type, message.metadata.group_id
    structured = start_json_log(str(context.node_id))
    log_round(monitored_round(group))
    began = time.monotonic()
    with ExitStack() as stack:
        if os.environ.get(TRACES_VARIABLE) == "1":
            _record(stack, context, kind, group)
        try:
            yield
        finally:
            if structured:
                log(INFO, "%s ended after %.3f s", kind, time.monotonic() - began)
            log_round(None)


def _record(stack: ExitStack, context: Context, kind: str, group: str) -> None:
    """Record what is done until the stack is closed, and send it to a collector."""
    try:
        exporters = make_exporters(opentelemetry=True)
    except ConfigError as error:  # of this site: it trains nevertheless
        log(WARNING, "%s=1: %s", TRACES_VARIABLE, error)
        return
    number = context.node_config.get("partition-id")
    stack.enter_context(exporters)
    exporters.open({"node": str(context.node_id), "run": str(context.run_id)}, 0)
    monitor = PerformanceMonitor()
    monitor.add_listener(exporters.records)
    stack.enter_context(monitor)
    stack.enter_context(monitored_call(number if isinstance(number, int) else 0, kind, group))
