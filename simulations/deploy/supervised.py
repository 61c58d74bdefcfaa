"""A process that is restarted when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

MIN_PAUSE = 1.0
MAX_PAUSE = 30.0
SETTLED = 60.0
"""Seconds of running after which the pause before the next restart is ``MIN_PAUSE`` again."""


@dataclass(frozen=True)
class Report:
    """The state of a supervised process.

    Parameters
    ----------
    name : str
        The name of the process.
    pid : int, optional
        Its process id; None if it is not running.
    restarts : int
        Number of restarts so far.
    exit_code : int, optional
        The last exit code, as in ``subprocess``: negative for a signal; None if it never ended.
    """

    name: str
    pid: int | None
    restarts: int
    exit_code: int | None


@final
class Supervised:
    """A process that can be restarted, with pauses that double each time it ends early.

    Parameters
    ----------
    name : str
        The name of the process.
    command : Sequence of str
        Its command line.
    environment : Mapping of str to str
        Its environment.
    log : Path
        The file to which its output is appended.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name, self.log = name, log
        self._command, self._environment = list(command), dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._next = 0.0
        self._pause, self._restarts = MIN_PAUSE, -1
        self._exit: int | None = None

    @property
    def report(self) -> Report:
        """The state of the process."""
        pid = None if self._process is None else self._process.pid
        return Report(self.name, pid, max(self._restarts, 0), self._exit)

    def start(self) -> None:
        """Start the process now."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self._started = time.monotonic()
        self._restarts += 1

    def ended(self) -> bool:
        """Return True if the process has ended since the last call, and then set its restart time.

        The result is False if it runs, or was already known to have ended.
        """
        if self._process is None or (code := self._process.poll()) is None:
            return False
        lived = time.monotonic() - self._started
        self._process, self._exit = None, code
        self._pause = MIN_PAUSE if lived > SETTLED else min(2 * self._pause, MAX_PAUSE)
        self._next = time.monotonic() + self._pause
        return True

    def start_if_due(self) -> bool:
        """Start the process if it is not running and its pause is over; return True if it did."""
        if self._process is not None or time.monotonic() < self._next:
            return False
        self.start()
        return True

    def stop(self, seconds: float) -> None:
        """Ask the process to end, if it runs; after ``seconds`` kill it and its process group."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None
