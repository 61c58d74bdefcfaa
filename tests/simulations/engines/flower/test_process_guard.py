"""However its caller ends, the guard ends all processes that it started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hqde_fl.simulations.engines.flower import process_guard

# Starts a child in a session of its own, as Flower does, says both process ids, and sleeps.
DETACHING = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(100)"]
child = subprocess.Popen(sleep, start_new_session=True)
print(os.getpid(), child.pid, file=open(sys.argv[1] + "/pids.tmp", "w"), flush=True)
os.rename(sys.argv[1] + "/pids.tmp", sys.argv[1] + "/pids")
time.sleep(100)
"""


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


def command(home: Path) -> list[str]:
    guarded = [sys.executable, "-c", DETACHING, str(home.parent)]
    return [sys.executable, "-P", process_guard.__file__, str(home), *guarded]


def started(home: Path) -> list[int]:
    """Return the ids of the two guarded processes, once both run."""
    file = home.parent / "pids"
    assert wait_for(file.exists)
    pids = [int(pid) for pid in file.read_text().split()]
    assert all(map(lives, pids))
    return pids


def test_all_ends_when_the_caller_closes_the_pipe(home: Path) -> None:
    with subprocess.Popen(
        command(home), stdin=subprocess.PIPE, env={**os.environ, process_guard.MARK: str(home)}
    ) as process:
        pids = started(home)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    assert not any(map(lives, pids))
    assert not home.exists()


def test_all_ends_when_the_caller_is_killed(home: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *command(home)],
        env={**os.environ, process_guard.MARK: str(home)},
    ) as caller:
        pids = started(home)
        # The caller carries the mark as well here; the guard must end it all without its help.
        caller.kill()
    assert wait_for(lambda: not any(map(lives, pids)))
    assert wait_for(lambda: not home.exists())


def test_the_exit_status_is_that_of_the_command(home: Path) -> None:
    failing = [sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(
        [sys.executable, "-P", process_guard.__file__, str(home), *failing], stdin=subprocess.PIPE
    ) as process:
        assert process.wait(timeout=30) == 7
    assert not home.exists()


def test_processes_of_other_homes_are_left_alone(home: Path) -> None:
    """Processes with the same ``FLWR_HOME``, for instance of a user's shell, are left alone too."""
    sleep = [sys.executable, "-c", "import time; time.sleep(100)"]
    marks = {"FLWR_HOME": str(home), process_guard.MARK: f"{home}-other"}
    with subprocess.Popen(sleep, env={**os.environ, **marks}) as other:
        process_guard.end_all(str(home))
        assert other.poll() is None
        process_guard.end_all(f"{home}-other")
        assert other.wait(timeout=10) != 0
