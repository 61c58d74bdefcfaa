"""Logs of the SuperLink and of SuperNodes as JSON lines, those of their web servers too."""

from __future__ import annotations

import logging

from uvicorn.config import LOGGING_CONFIG

from hqde_fl.simulations.recording.json_log import JsonFormatter, log_node, start_json_log

_NODE_LINE = "SuperNode ID: %s"
"""The line by which Flower's SuperNode says which node it is."""


def start_server_log(node: str) -> bool:
    """Log as JSON from now on, if the environment asks for it; return True if it does.

    It must be called before the web server is configured. ``node`` stands in each line, until a
    SuperNode has learnt its node id.
    """
    if not start_json_log(node):
        return False
    LOGGING_CONFIG["formatters"] = {name: {"()": JsonFormatter} for name in ("default", "access")}
    logging.getLogger("flwr").addFilter(_follow_node)
    return True


def _follow_node(record: logging.LogRecord) -> bool:
    """Take the node's id from the line that has it; keep every line."""
    if record.msg == _NODE_LINE and isinstance(record.args, tuple):
        log_node(str(record.args[0]))
    return True
