"""Calls of a function in a separate process, with limits on time and memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, final

import psutil

T = TypeVar("T")

START_SECONDS = 600.0
"""Limit in seconds on the start of a process, which loads the function's module."""


class EndedError(Exception):
    """The process was killed, or ended, before it returned a result."""


@final
class Sandbox(Generic[T]):
    """Calls a function in a separate process, so that a failed call leaves this process unharmed.

    After a call that ends the process, the next call starts a new one. A context manager that ends
    the process on exit.

    Parameters
    ----------
    function : Callable[..., T]
        A function at the top level of a module.
    seconds : float
        Time limit of a call.
    megabytes : int
        Limit in MiB on memory that the process allocates after its start. Not enforced on platforms
        without such a limit (macOS).
    """

    def __init__(
        self, function: Callable[..., T], seconds: float = 60.0, megabytes: int = 4096
    ) -> None:
        self._function, self._seconds, self._megabytes = function, seconds, megabytes
        self._process: BaseProcess | None = None
        self._line: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def __call__(self, *arguments: Any) -> T:
        """Call the function in the process and return its result, or raise its exception.

        Raises
        ------
        EndedError
            If the process ended without a result; the message names the cause.
        """
        if self._line is None:
            self._line = self._start()
        try:
            self._line.send(arguments)
            result = self._answer(self._line, self._seconds)
        except EndedError:
            self._end()
            raise
        if isinstance(result, BaseException):
            raise result
        answer: T = result
        return answer

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._megabytes, self._function), daemon=True
        )
        with _safe_path():
            self._process.start()
        theirs.close()
        try:
            self._answer(ours, START_SECONDS)
        except EndedError:
            self._end()
            raise
        return ours

    def _answer(self, line: Connection, seconds: float) -> Any:
        assert self._process is not None
        try:
            if not line.poll(seconds):
                raise EndedError(f"killed after {seconds:g} s")
            return line.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise EndedError(_death(self._process.exitcode)) from None

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._line is not None:
            self._line.close()
        self._process = self._line = None


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keep Python processes that start in this context from importing from their working directory.

    The environment of this process is changed until the end of the context.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


def _serve(line: Connection, megabytes: int, function: Callable[..., Any]) -> None:
    """Answer calls with results or exceptions until the connection is closed.

    First the output of this process is discarded and its memory limited.
    """
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    with suppress(ImportError, ValueError, OSError):  # not every platform has this limit
        import resource

        limit = psutil.Process().memory_info().vms + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    line.send(None)
    with suppress(EOFError):
        while True:
            arguments = line.recv()
            try:
                result = function(*arguments)
            except Exception as error:
                result = error
            line.send(result)


def _death(status: int | None) -> str:
    if status is not None and status < 0:
        return f"its process died of {signal.Signals(-status).name}"
    return f"its process ended with status {status}"
