"""One process that is started again when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
SETTLED = 60.0
"""Seconds after which a process has proved itself: its next restart is quick again."""


@dataclass(frozen=True)
class Report:
    """How a supervised process is.

    Parameters
    ----------
    name : str
        Its name.
    pid : int, optional
        Of the running process.
    restarts : int
        How often it was started again.
    exit_code : int, optional
        How it ended last, as ``subprocess`` has it: negative is a signal.
    """

    name: str
    pid: int | None
    restarts: int
    exit_code: int | None


@final
class Supervised:
    """A process and its log.

    Parameters
    ----------
    name : str
        What it is called.
    command : Sequence of str
        What is run.
    environment : Mapping of str to str
        In which.
    log : Path
        Where its output is appended.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name, self.log = name, log
        self._command, self._environment = list(command), dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._next = 0.0
        self._pause, self._restarts = FIRST_PAUSE, -1
        self._exit: int | None = None

    @property
    def report(self) -> Report:
        """How it is."""
        pid = None if self._process is None else self._process.pid
        return Report(self.name, pid, max(self._restarts, 0), self._exit)

    def start(self) -> None:
        """Start it now."""
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
        """Whether it has ended since it was last asked; then it is due again after a pause."""
        if self._process is None or (code := self._process.poll()) is None:
            return False
        lived = time.monotonic() - self._started
        self._process, self._exit = None, code
        self._pause = FIRST_PAUSE if lived > SETTLED else min(2 * self._pause, LONGEST_PAUSE)
        self._next = time.monotonic() + self._pause
        return True

    def start_if_due(self) -> bool:
        """Start it again if it has ended and its pause is over; whether it was."""
        if self._process is not None or time.monotonic() < self._next:
            return False
        self.start()
        return True

    def stop(self, seconds: float) -> None:
        """Ask it to end, wait, and end it with all it has started."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None
