"""A supervised process: its restarts, its pauses and its log."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hqde_fl.simulations.deploy import supervised
from hqde_fl.simulations.deploy.supervised import Supervised

PATIENCE = 60.0


def process(log: Path, code: str) -> Supervised:
    return Supervised("node-0", [sys.executable, "-c", code], dict(os.environ), log)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_ends_is_started_again_after_longer_and_longer_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(supervised, "time", SimpleNamespace(monotonic=lambda: now))
    ending = process(tmp_path / "log", "print('hello', flush=True); raise SystemExit(3)")
    ending.start()
    pauses = []
    for _ in range(6):
        wait_until(ending.ended)
        assert ending.report.pid is None
        assert ending.report.exit_code == 3
        begun = now
        while not ending.start_if_due():
            now += 0.5
        pauses.append(now - begun)
    wait_until(ending.ended)
    assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert ending.report.restarts == 6
    assert (tmp_path / "log").read_text() == "hello\n" * 7


def test_a_process_that_lived_long_is_started_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    living = process(tmp_path / "log", "import signal; signal.pause()")
    monkeypatch.setattr(supervised, "SETTLED", 0.0)
    living.start()
    pid = living.report.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(living.ended)
    assert living.report.exit_code == -signal.SIGKILL
    wait_until(living.start_if_due)
    assert living.report.restarts == 1
    living.stop(PATIENCE)
    assert living.report.pid is None


def test_what_does_not_end_when_asked_is_ended(tmp_path: Path) -> None:
    deaf = process(
        tmp_path / "log",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
        "while True: signal.pause()",
    )
    deaf.start()
    wait_until(lambda: "deaf" in (tmp_path / "log").read_text())
    pid = deaf.report.pid
    assert pid is not None
    deaf.stop(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
