"""Run one command, and end all processes that it started as soon as the caller has ended.

Flower detaches its processes: the SuperLink, the SuperExec and the simulation each have their own
session, and Ray's agents outlive even a killed Ray. So a run that is interrupted, crashes or is
killed with ``kill -9`` would leave processes behind. Therefore this file is run as a process::

    python -P process_guard.py HOME COMMAND [ARGUMENT ...]

It starts ``COMMAND`` and waits until the command ends or until its standard input, a pipe from the
caller, is closed. Then it ends every process with `MARK` ``=HOME`` in its environment, with its
descendants, and removes ``HOME``. It imports only the standard library and psutil, to start fast.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

import psutil

MARK = "HQDE_FL_PROCESS_OF"
"""The variable that marks processes; unlike ``FLWR_HOME``, users do not set it themselves."""

_ROUNDS = 5
_PATIENCE = 3.0  # seconds between asking a process to end and ending it


def end_all(home: str) -> None:
    """End every process started under ``home``, in several passes, as some may just be starting.

    Parameters
    ----------
    home : str
        The value of `MARK` in their environment; the calling process is left alone.
    """
    for _ in range(_ROUNDS):
        processes = _started_under(home)
        if not processes:
            return
        # Ray's agents clear their environment and can be found only through their parents, so all
        # are collected before the first one is ended.
        for process in processes:
            _send(process, signal.SIGTERM)
        _wait(processes, _PATIENCE)
        for process in processes:
            _send(process, signal.SIGKILL)
        _wait(processes, _PATIENCE)


def _started_under(home: str) -> list[psutil.Process]:
    """Return the living processes with `MARK` ``=home`` in their environment.

    Their living descendants are included, this process is not.
    """
    marked: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == home and _lives(process):
                marked[process.pid] = process
                marked.update((child.pid, child) for child in process.children(recursive=True))
        except (psutil.Error, OSError):
            continue  # it has ended, or is another user's
    marked.pop(psutil.Process().pid, None)
    return [process for process in marked.values() if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    """Return True if a process is running; False for a zombie, or if its state is not known."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _send(process: psutil.Process, number: int) -> None:
    if _lives(process):
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _wait(processes: Sequence[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(_lives(process) for process in processes):
        time.sleep(0.05)


def main(arguments: Sequence[str]) -> int:
    """Run a command until it ends or standard input is closed, then end what it has started.

    ``arguments`` are the home directory, which is removed at the end, and the command. Return the
    command's exit status, or 0 if standard input was closed first.
    """
    home, *command = arguments

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    process = None
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while process.poll() is None:
            readable, _, _ = select.select([sys.stdin], [], [], 0.2)
            if readable and not os.read(sys.stdin.fileno(), 1):
                return 0
        return process.returncode
    finally:
        # so that no signal interrupts the clean-up
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_all(home)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
