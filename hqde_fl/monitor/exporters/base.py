"""The interface of exporters, and the guard that keeps their errors away from a run.

An exporter gets what the run directory gets: every record of ``monitor.jsonl`` and every line of
``rounds.jsonl`` and ``pool.jsonl``, as it is written.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from hqde_fl.monitor.schema import Record
from hqde_fl.terminal_text import describe_error

log = logging.getLogger("flwr")  # the log of everything that runs on Flower


class Exporter(ABC):
    """Publishes what a monitor records to another program, while a run goes on.

    ``record`` and ``round`` may be called from several threads at once.
    """

    name: str
    """Name in messages."""

    @abstractmethod
    def open(self, run: Mapping[str, str], rounds: int) -> str | None:
        """Begin to publish a run.

        Parameters
        ----------
        run : Mapping[str, str]
            Facts that identify the run, such as its ``name`` and ``engine``.
        rounds : int
            The number of its last round.

        Returns
        -------
        str or None
            Where to find what is published, as text for the user, if that is not obvious.
        """

    @abstractmethod
    def record(self, record: Record) -> None:
        """Publish a record of ``monitor.jsonl``."""

    @abstractmethod
    def round(self, line: Mapping[str, Any]) -> None:
        """Publish a line of ``rounds.jsonl``."""

    def pool(self, line: Mapping[str, Any]) -> None:
        """Publish a line of ``pool.jsonl``; nothing unless overridden."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Publish what is left and end; nothing may remain, no thread and no open port."""


class Exporters:
    """Exporters whose errors never reach the run.

    The first error of an exporter is logged as a warning, and it gets nothing more.

    Parameters
    ----------
    exporters : Sequence[Exporter]
        The exporters.
    """

    def __init__(self, exporters: Sequence[Exporter] = ()) -> None:
        self._active = list(exporters)
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._active)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self, run: Mapping[str, str], rounds: int) -> dict[str, str]:
        """Begin to publish a run; ``run`` and ``rounds`` are those of ``Exporter.open``.

        Returns
        -------
        dict[str, str]
            The name of an exporter -> where to find what it publishes, if it says so.
        """
        places = {}
        for exporter in tuple(self._active):
            with self._guarded(exporter):
                if text := exporter.open(run, rounds):
                    places[exporter.name] = text
        return places

    def record(self, record: Record) -> None:
        """Publish a record of ``monitor.jsonl``."""
        for exporter in tuple(self._active):
            with self._guarded(exporter):
                exporter.record(record)

    def records(self, records: Sequence[Record]) -> None:
        """Publish several records; a ``PerformanceMonitor`` takes this as a listener."""
        for record in records:
            self.record(record)

    def round(self, line: Mapping[str, Any]) -> None:
        """Publish a line of ``rounds.jsonl``."""
        for exporter in tuple(self._active):
            with self._guarded(exporter):
                exporter.round(line)

    def pool(self, line: Mapping[str, Any]) -> None:
        """Publish a line of ``pool.jsonl``."""
        for exporter in tuple(self._active):
            with self._guarded(exporter):
                exporter.pool(line)

    def close(self) -> None:
        """End all exporters; a second call does nothing."""
        with self._lock:
            exporters, self._active = self._active, []
        for exporter in exporters:
            with self._guarded(exporter):
                exporter.close()

    @contextmanager
    def _guarded(self, exporter: Exporter) -> Iterator[None]:
        """End an exception of the block here, and leave the exporter out from then on."""
        try:
            yield
        except Exception as error:
            self._drop(exporter, error)

    def _drop(self, exporter: Exporter, error: Exception) -> None:
        with self._lock:
            if exporter in self._active:
                self._active.remove(exporter)
        log.warning(
            "monitor: %s failed, and gets nothing more of this run: %s",
            exporter.name,
            describe_error(error),
        )
        with suppress(Exception):
            exporter.close()
