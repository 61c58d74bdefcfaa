"""``PerformanceMonitor`` records, in the background, what a run uses and where its time goes."""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, final

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.parquet import write_parquet
from hqde_fl.monitor.sampler import Sampler
from hqde_fl.monitor.schema import (
    FILE,
    Record,
    ResourceSample,
    Start,
    Stop,
    append_records,
    read_records,
)
from hqde_fl.monitor.spans import activate, deactivate, record_training_metric
from hqde_fl.monitor.summary import summarize

P = ParamSpec("P")
T = TypeVar("T")
Listener = Callable[[Sequence[Record]], None]
"""Gets the records of the last interval, in the monitor's thread."""
Source = Callable[[], Iterable[Record]]
"""Returns further records, such as those of other hosts; called once in an interval."""

MIN_INTERVAL, MAX_INTERVAL = 0.05, 3600.0
MAX_KEPT = 200_000
"""Records that a monitor without a directory keeps; earlier ones are dropped."""
START_SECONDS = 0.02
"""Time that the thread leaves the processor to the program which has just started it."""
STOP_SECONDS = 5.0
"""Time that ``stop`` waits for the monitor's thread."""


@final
class PerformanceMonitor:
    """Measures resources, spans of time and training metrics while a program runs.

    A thread samples CPU, memory, disk and network of this process with all that it has started, and
    of the host and its GPUs. Spans (``hqde_fl.monitor.spans.span``) and training metrics are those
    of all threads of this process. An error of the monitor ends the monitor, with a warning, and
    never the program.

    It is a context manager and a decorator: ``with PerformanceMonitor("DIR"):``. Blocks and calls
    within others are one record, which ends with the outermost. It may be started again after it
    has been stopped, and adds to the records then.

    Parameters
    ----------
    directory : str or Path, optional
        Where ``monitor.jsonl`` is appended to while it goes, and ``monitor.parquet`` written at the
        end; made if it does not exist. Without one the records are kept in memory.
    interval : float, default=1.0
        Seconds between two samples, in [0.05, 3600].
    root : int, optional
        Id of the process that is measured with all that it has started; by default this one.

    Attributes
    ----------
    failure : str or None
        Why the monitor ended by itself; None if it did not.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        interval: float = 1.0,
        root: int | None = None,
    ) -> None:
        if not MIN_INTERVAL <= interval <= MAX_INTERVAL:
            raise ConfigError(
                f"interval needs to be in [{MIN_INTERVAL}, {MAX_INTERVAL:g}] s, found {interval}"
            )
        self.directory = None if directory is None else Path(directory)
        self.interval = interval
        self.failure: str | None = None
        self._root, self._further_roots = root, deque[int]()
        self._kept: deque[Record] = deque(maxlen=MAX_KEPT)
        self._queue: deque[Record] = deque()
        self._listeners: list[Listener] = []
        self._sources: list[Source] = []
        self._latest: ResourceSample | None = None
        self._thread: threading.Thread | None = None
        self._blocks = 0
        self._over = threading.Event()
        self._writing = threading.Lock()

    # --- its life ---------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to record, and return at once; nothing happens if it records already."""
        if self._thread is not None:
            return self
        self.failure = None
        self._over = threading.Event()
        self._queue.append(Start(time.time(), socket.gethostname(), os.getpid(), self.interval))
        activate(self)
        self._thread = threading.Thread(target=self._run, name="hqde-fl monitor", daemon=True)
        self._thread.start()
        return self

    def stop(self, reason: str = "finished") -> None:
        """Stop recording, and write what is left; nothing happens if it does not record.

        Parameters
        ----------
        reason : str
            Why, for the record.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        deactivate(self)
        self._over.set()
        thread.join(STOP_SECONDS)
        if self.failure is None:
            self._queue.append(Stop(time.time(), socket.gethostname(), reason))
            try:
                self._flush()
                if self.directory is not None:
                    write_parquet(self.directory)
            except Exception as error:
                self._fail(error)

    def __enter__(self) -> Self:
        self._blocks += 1
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._blocks -= 1
        if not self._blocks:
            self.stop("finished" if error is None else f"{type(error).__name__}: {error}")

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function with each of its calls monitored."""

        @functools.wraps(function)
        def monitored(*args: P.args, **kwargs: P.kwargs) -> T:
            with self:
                return function(*args, **kwargs)

        return monitored

    # --- what it records --------------------------------------------------------------------------

    def add(self, record: Record) -> None:
        """Take a record; it is written within an interval."""
        self._queue.append(record)

    def add_root(self, pid: int) -> None:
        """Measure another process of this host, with all that it has started, too."""
        self._further_roots.append(pid)

    def add_source(self, source: Source) -> None:
        """Record what a function returns, too; it is called once in an interval.

        If it raises an exception, that is logged, and the function is not called again.
        """
        self._sources.append(source)

    def add_listener(self, listener: Listener) -> None:
        """Give all further records to a function, too; it is called once in an interval.

        If it raises an exception, that is logged, and the function is not called again.
        """
        self._listeners.append(listener)

    @staticmethod
    def record_training_metric(
        name: str, value: float, epoch: int | None = None, batch: int | None = None
    ) -> None:
        """Record a value of a training metric; see ``spans.record_training_metric``."""
        record_training_metric(name, value, epoch, batch)

    @property
    def latest(self) -> ResourceSample | None:
        """The latest sample of this host; None before the first."""
        return self._latest

    def records(self) -> list[Record]:
        """Return all records so far, in a directory also those of earlier attempts at its run."""
        if self.directory is None:
            return [*self._kept, *self._queue]
        with self._writing:
            return [*read_records(self.directory / FILE), *self._queue]

    def summary(self) -> dict[str, Any]:
        """Return the resources that were used, the seconds of each span, and the last metrics.

        See ``hqde_fl.monitor.summary.summarize``.
        """
        return summarize(self.records())

    # --- its thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        over = self._over
        sampler: Sampler | None = None
        over.wait(START_SECONDS)
        try:
            if self.directory is not None:
                self.directory.mkdir(parents=True, exist_ok=True)
            sampler = Sampler(self._root, self.directory, driver=os.getpid())
            self.add(sampler.describe_host())
            due = time.monotonic()
            ended = False
            while not ended:
                due = max(due + self.interval, time.monotonic())
                ended = over.wait(due - time.monotonic())
                while self._further_roots:
                    sampler.add_root(self._further_roots.popleft())
                self._latest = sampler.sample()
                self.add(self._latest)
                self._ask_sources()
                self._flush()
        except Exception as error:
            self._fail(error)
        finally:
            if sampler is not None:
                sampler.close()

    def _ask_sources(self) -> None:
        for source in list(self._sources):
            try:
                self._queue.extend(source())
            except Exception as error:
                self._sources.remove(source)
                _warn("a source of further records failed and is not asked again", error)

    def _flush(self) -> None:
        """Write the records that are queued, and tell the listeners."""
        with self._writing:
            records = []
            while self._queue:
                records.append(self._queue.popleft())
            if self.directory is None:
                self._kept.extend(records)
            elif records:
                append_records(self.directory / FILE, records)
        for listener in list(self._listeners):
            try:
                listener(records)
            except Exception as error:
                self._listeners.remove(listener)
                _warn("a listener failed and is told no more", error)

    def _fail(self, error: Exception) -> None:
        """End recording because of an error, and say so."""
        deactivate(self)
        self.failure = f"{type(error).__name__}: {error}"
        self._queue.clear()
        _warn("the monitor failed and records no more; the run goes on", error)
        if self.directory is not None:
            stop = Stop(time.time(), socket.gethostname(), f"monitor failed: {self.failure}")
            with suppress(Exception):
                append_records(self.directory / FILE, [stop])


def _warn(message: str, error: Exception) -> None:
    getLogger(__name__).warning("%s (%s: %s)", message, type(error).__name__, error)
