"""Log lines as JSON objects, with the node and the round, for programs that collect logs."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime

LOG_VARIABLE = "HQDE_FL_LOG"
"""Environment variable that chooses the form of the log: ``json``, or else text."""

_scope: dict[str, str | int] = {}
"""Node and round of what this process does now."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one line with a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time, level, message, and node and round if they are known."""
        table: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_scope,
        }
        if record.exc_info:
            table["exception"] = self.formatException(record.exc_info)
        return json.dumps(table, ensure_ascii=False)


def start_json_log(node: str) -> bool:
    """Log as JSON from now on, if the environment asks for it; return True if it does.

    ``node`` is the node's id or name, ``server`` for the server.
    """
    if os.environ.get(LOG_VARIABLE) != "json":
        return False
    log_node(node)
    for handler in logging.getLogger("flwr").handlers:
        handler.setFormatter(JsonFormatter())
        handler.format = handler.formatter.format  # type: ignore[method-assign, union-attr]
    return True


def log_node(node: str) -> None:
    """Set the node of the lines that follow, by its id or name."""
    _scope["node"] = node


def log_round(number: int | None) -> None:
    """Set the round of the lines that follow; None if they belong to none."""
    _scope.pop("round", None)
    if number is not None:
        _scope["round"] = number
