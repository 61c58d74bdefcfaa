"""Log lines as JSON."""

from __future__ import annotations

import json
import logging

import pytest

from hqde_fl.simulations.recording import json_log
from hqde_fl.simulations.recording.json_log import JsonFormatter, log_round, start_json_log


def formatted(message: str) -> dict[str, object]:
    made = logging.LogRecord("flwr", logging.WARNING, "f.py", 1, message, (), None)
    return dict(json.loads(JsonFormatter().format(made)))


def test_a_line_has_node_and_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_log, "_scope", {})
    logger = logging.getLogger("flwr")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler()])
    monkeypatch.setenv("HQDE_FL_LOG", "json")
    assert start_json_log("clinic")
    log_round(3)
    line = formatted('two\nlines and "quotes"')
    assert (line["node"], line["round"], line["level"]) == ("clinic", 3, "warning")
    assert line["message"] == 'two\nlines and "quotes"'
    log_round(None)
    assert "round" not in formatted("x")
    made = logging.LogRecord("flwr", logging.INFO, "f.py", 1, "y", (), None)
    assert json.loads(logger.handlers[0].format(made))["node"] == "clinic"


def test_text_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HQDE_FL_LOG", raising=False)
    assert not start_json_log("clinic")
