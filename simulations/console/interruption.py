"""Let Ctrl-C, SIGTERM and SIGHUP end a run: first what was started, then the process.

Inside ``interruptible`` each of the three raises ``KeyboardInterrupt`` in the main thread. It is
the one exception that everything underneath passes on: Ray turns a ``KeyboardInterrupt`` into its
own and drops whatever else a handler raises. On the way out, SIGTERM and SIGHUP become
``Terminated``, a ``SystemExit`` with the exit status that shells give to the signal.

Signals belong to the main thread: in any other thread all of this does nothing. Standard library
only, and little of it: ``hqde-fl`` imports this before it can be interrupted in good order.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:  # ``typing`` takes longer to import than everything else here
    from types import FrameType
    from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the request to end, and the terminal that was closed."""

WATCH_SECONDS = 0.02
"""Interval at which SIGTERM's handler is restored, and delay before a lost signal is repeated."""

REPEAT_SECONDS = 1.0
"""A signal that follows another one within this time is taken for the same request."""

_current: Interruption | None = None
_interrupted: int | None = None
_commanded = False


class Terminated(SystemExit):
    """Exit of a process that was asked to end by SIGTERM or SIGHUP.

    Parameters
    ----------
    number : int
        The signal; the exit status is 128 more.
    """

    def __init__(self, number: int) -> None:
        self.status = exit_status(number)
        super().__init__(self.status)


def exit_status(number: int) -> int:
    """Return the exit status of a process that a signal ended, as shells give it."""
    return 128 + number


class Interruption:
    """The signals of an ``interruptible`` block.

    Attributes
    ----------
    number : signal.Signals or None
        The first signal that came.
    at : float
        When it came, in seconds since the epoch.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self.at = 0.0
        self.held, self._waiting, self._ending, self._lost = 0, False, False, False
        self._raised = float("-inf")

    def install(self) -> None:
        """Install the handlers of SIGINT, SIGTERM and SIGHUP, in place of any others."""
        for number in _taken():
            signal.signal(number, self._receive)

    def end(self) -> None:
        """Ignore further signals, if one has come already."""
        self._ending = self._ending or self.number is not None

    def release(self) -> None:
        """Raise ``KeyboardInterrupt`` if a signal was held back and signals are not ignored."""
        waiting, self._waiting = self._waiting, False
        if waiting and not self._ending:
            self._raised = time.monotonic()
            raise KeyboardInterrupt

    def lose(self) -> None:
        """Repeat the signal a moment later, as Python has dropped its exception (in a finaliser).

        Nothing is done if no signal has come, or if further ones are ignored.
        """
        if self.number is not None and not self._ending:
            self._lost = True
            timer = threading.Timer(WATCH_SECONDS, _thread.interrupt_main, (self.number,))
            timer.daemon = True
            timer.start()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        global _interrupted
        if number == signal.SIGTERM:
            _cancel_abort()
        repeated = self.number is not None
        if not repeated:
            self.number, self.at = signal.Signals(number), time.time()
            _interrupted = self.number
        if self.held:
            self._waiting = True
            return
        again = self._lost or time.monotonic() - self._raised > REPEAT_SECONDS
        if repeated and (self._ending or not again):
            return
        self._lost, self._raised = False, time.monotonic()
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Let SIGINT, SIGTERM and SIGHUP raise ``KeyboardInterrupt`` while the block lasts.

    The first signal is raised at once; a second one changes nothing while the run is being ended.
    The earlier handlers are restored afterwards. A block inside another one is a part of it. SIGHUP
    stays ignored where it was (``nohup``). Outside of the main thread the block changes nothing.

    Yields
    ------
    Interruption
        The signal that has come, and when.

    Raises
    ------
    KeyboardInterrupt
        After SIGINT.
    Terminated
        After SIGTERM or SIGHUP.
    """
    global _current, _interrupted
    if threading.current_thread() is not threading.main_thread():
        yield Interruption()
        return
    if _current is not None:
        _current.install()
        yield _current
        return
    interruption, _interrupted = Interruption(), None
    before = {number: signal.getsignal(number) for number in _taken()}
    earlier_hook = sys.unraisablehook

    def unraisable(dropped_error: Any) -> None:
        if isinstance(dropped_error.exc_value, KeyboardInterrupt):
            interruption.lose()
        else:
            earlier_hook(dropped_error)

    try:
        _current, sys.unraisablehook = interruption, unraisable
        interruption.install()
        yield interruption
    except BaseException as error:
        if interruption.number is None and _from_ray(error):
            interruption.number = signal.SIGTERM
        interruption.end()
        if interruption.number is None:
            raise
        _interrupted = interruption.number
        if interruption.number != signal.SIGINT:
            raise Terminated(interruption.number) from None
        if isinstance(error, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from error  # what the interrupted code made of it
    finally:
        interruption.end()
        _current, sys.unraisablehook = None, earlier_hook
        for number, handler in before.items():
            if handler is not None:  # None: not Python's, and there is no way to put it back
                signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back while the block ends what was started; they are raised after it.

    If a signal has come already, further ones are dropped. Without an ``interruptible`` block
    around it, or outside of the main thread, it does nothing.
    """
    interruption = _current
    if interruption is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    interruption.end()
    interruption.held += 1
    try:
        yield
    finally:
        interruption.held -= 1
    if not interruption.held:
        interruption.release()


def interrupted_by() -> int:
    """Return the signal that came in the last ``interruptible`` block, or SIGINT if none came."""
    return signal.SIGINT if _interrupted is None else _interrupted


def interrupted() -> bool:
    """Return True if a signal has come in the present ``interruptible`` block, if there is one."""
    return _current is not None and _current.number is not None


def interrupted_at() -> float:
    """Return the time of the first signal in the present ``interruptible`` block.

    It is in seconds since the epoch; infinity if no signal has come, or without such a block.
    """
    return _current.at if _current is not None and interrupted() else float("inf")


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM in place during the block, which may run in any thread.

    Ray replaces it when a process connects: in Python, if that happens in the main thread, and in
    C, where its handler prints a stack and aborts the process three seconds later.
    """
    import ctypes

    libc, size = ctypes.CDLL(None), 512  # of a struct sigaction: more than it has anywhere
    action, found = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
    libc.sigaction(signal.SIGTERM, None, action)
    handler, over = signal.getsignal(signal.SIGTERM), threading.Event()

    def put_back() -> None:
        libc.sigaction(signal.SIGTERM, None, found)
        changed = found.raw != action.raw
        if changed and signal.getsignal(signal.SIGTERM) is handler:  # not by the main thread
            libc.sigaction(signal.SIGTERM, action, None)

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            put_back()

    watcher = threading.Thread(target=watch, name="sigterm", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)
        put_back()


def leave_at_once() -> None:
    """Let signals end this process at once, with one word on stderr.

    This is for the time before anything is started: while modules are imported, an exception could
    be taken for a failed import, or be printed by a C extension. Once an ``interruptible`` block
    has been interrupted, signals are ignored. The call also marks the process as the command's own,
    which ends after an interruption in any case (``ends_process``).
    """
    global _commanded
    _commanded = True
    for number in _taken():
        signal.signal(number, _leave)


def ends_process() -> bool:
    """Return True if a signal has come and ``leave_at_once`` was called: the process must end."""
    return _commanded and (_interrupted is not None or interrupted())


def ignore() -> None:
    """Ignore SIGINT, SIGTERM and SIGHUP from now on, as the process is about to end."""
    for number in _taken():
        signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    if _interrupted is None:
        os.write(2, b"interrupted\n")
        os._exit(exit_status(number))


def _taken() -> list[int]:
    hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not hangup]


def _from_ray(error: BaseException) -> bool:
    """Return True if an error is the ``SystemExit`` that Ray's SIGTERM handler raises."""
    return isinstance(error, SystemExit) and error.code == signal.SIGTERM


def _cancel_abort() -> None:
    """If Ray is imported, cancel the alarm by which its SIGTERM handler aborts the process."""
    if "ray" in sys.modules:
        signal.alarm(0)
