"""What the SuperLink's and the SuperNodes' programs add to Flower's."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import subprocess
import sys

import pytest
from uvicorn.config import LOGGING_CONFIG

from hqde_fl.simulations.deploy.server_log import start_server_log
from hqde_fl.simulations.deploy.supernode_program import with_free_port
from hqde_fl.simulations.recording import json_log
from hqde_fl.simulations.recording.json_log import JsonFormatter


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """Flower's logger, with one handler; all that JSON changes is as before in the end."""
    logger = logging.getLogger("flwr")
    monkeypatch.setattr(json_log, "_scope", {})
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setitem(LOGGING_CONFIG, "formatters", LOGGING_CONFIG["formatters"])
    return logger


def test_a_supernode_learns_its_id(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQDE_FL_LOG", "json")
    assert start_server_log("supernode")
    lines: list[dict[str, object]] = []
    handler = logging.NullHandler()
    monkeypatch.setattr(handler, "handle", lambda r: lines.append(json.loads(handler.format(r))))
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    for text, arguments in (("Starting", ()), ("SuperNode ID: %s", (17,)), ("later", ())):
        logger.warning(text, *arguments)
    assert [(line["message"], line["node"]) for line in lines] == [
        ("Starting", "supernode"),
        ("SuperNode ID: 17", "17"),
        ("later", "17"),
    ]


def test_lines_of_the_web_server_are_json_too(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HQDE_FL_LOG", "json")
    start_server_log("superlink")
    made = logging.config.DictConfigurator(LOGGING_CONFIG)
    arguments = ("10.0.0.1:5", "GET", "/health", "1.1", 200)
    text = '%s - "%s %s HTTP/%s" %d'
    record = logging.LogRecord("uvicorn.access", logging.INFO, "f.py", 1, text, arguments, None)
    for name in LOGGING_CONFIG["formatters"]:
        formatter = made.configure_formatter(LOGGING_CONFIG["formatters"][name])
        line = json.loads(formatter.format(record))
        assert line["message"] == '10.0.0.1:5 - "GET /health HTTP/1.1" 200'
        assert line["node"] == "superlink"


def test_text_stays_text(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HQDE_FL_LOG", raising=False)
    before = LOGGING_CONFIG["formatters"]
    assert not start_server_log("superlink")
    assert LOGGING_CONFIG["formatters"] is before
    assert logger.filters == []


@pytest.mark.parametrize("zero", [["--port", "0"], ["--port=0"]])
def test_port_0_is_a_free_port_and_others_stay(zero: list[str]) -> None:
    given = ["--superlink", "a:0", *zero, "--host", "127.0.0.1"]
    found = " ".join(with_free_port(given)).replace("=", " ").split()
    number = int(found.pop(found.index("--port") + 1))
    assert 0 < number < 65536
    assert found == ["--superlink", "a:0", "--port", "--host", "127.0.0.1"]
    fixed = ["--port", "9095", "--host", "0"]
    assert with_free_port(fixed) == fixed


LOST = """
import sys, threading, time
from hqde_fl.simulations.deploy import supernode_program

def supernode():
    threading.Thread(target=time.sleep, args=(600,)).start()

supernode_program.flower_supernode = supernode
sys.argv[:] = ["supernode"]
supernode_program.main()
"""


def test_a_supernode_that_lost_its_superlink_ends_to_be_started_again() -> None:
    """As Flower's SuperNode returns then, while the thread of its server goes on."""
    done = subprocess.run(
        [sys.executable, "-c", LOST],
        env={**os.environ, "HQDE_FL_PRELOAD": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the SuperNode has lost its SuperLink" in done.stderr + done.stdout
