"""Run the command ``hqde-fl`` as a process, as its console script starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hqde_fl.simulations.recording.recorded_run import read_lines
from hqde_fl.simulations.recording.round_chain import CHAIN_HASH

ROOT = Path(__file__).resolve().parents[2]
MARK = "HQDE_FL_TEST_PROCESS_OF"
SECONDS = 300.0
"""Time limit of everything that tests wait for."""


def entry_point() -> str:
    """Return the code that ``pip`` writes into the console script."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["hqde-fl"].split(":")
    return f"import sys; sys.argv[0] = 'hqde-fl'; from {module} import {function}; {function}()"


def command(*arguments: object) -> list[str]:
    """Return a command line of ``hqde-fl``."""
    return [sys.executable, "-P", "-c", entry_point(), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which processes import this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


def call(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, check=False
    )


def lives(process: psutil.Process) -> bool:
    """Return whether a process runs, and is no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def await_that(holds: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@dataclass
class Running:
    """A command that is running."""

    process: subprocess.Popen[str]
    mark: str
    _seen: dict[int, psutil.Process] = field(default_factory=dict)

    def wait_for(self, holds: Callable[[], object], what: str) -> None:
        """Wait for a condition; the command must not have ended by then."""

        def held() -> object:
            found = holds()
            assert found or self.process.poll() is None, self.process.communicate()
            return found

        await_that(held, what)

    def catches_sigterm(self) -> bool:
        """Return whether its signal handlers are in place."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    def send(self, *numbers: int) -> None:
        """Send signals, one right after the other."""
        self.left()
        for number in numbers:
            self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return the exit status and stderr."""
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors

    def left(self) -> list[psutil.Process]:
        """Return the processes that it has started and that still run.

        Descendants that have cleared their environment are among them.
        """
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.pid != self.process.pid:
                    below = process.children(recursive=True)
                    self._seen |= {member.pid: member for member in (process, *below)}
            except (psutil.Error, OSError):
                continue
        return [process for process in self._seen.values() if lives(process)]


@contextmanager
def started(
    *arguments: object, cwd: Path, variables: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start the command, with more environment variables; it does not outlive the test."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env={**environment(**{MARK: mark}), **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Running(process, mark)
    try:
        yield running
    finally:
        process.kill()
        process.communicate()
        for left in running.left():
            left.kill()


def rounds_in(run: Path) -> int:
    """Return the number of rounds that a run has recorded."""
    rounds = run / "rounds.jsonl"
    return rounds.read_text().count("\n") if rounds.exists() else 0


def chain_in(run: Path) -> list[str]:
    """Return the hash of each recorded round, which covers its records and its model."""
    return [line[CHAIN_HASH] for line in read_lines(run / "rounds.jsonl")]
