"""The base class of sinks: callbacks that send the numbers of each round to another tool."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from logging import WARNING
from pathlib import Path
from typing import Any, ClassVar

from flwr.app import ArrayRecord

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.spans import activate, deactivate, is_recording
from hqde_fl.protocol.flower_internals import log
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.outcomes import NOT_KEPT
from hqde_fl.strategies.sinks.monitor_numbers import MonitorNumbers
from hqde_fl.terminal_text import describe_error


class Sink(Callback):
    """Sends the numbers of each round to a tool; an error of the tool never ends the run.

    The first error is logged as a warning, and the tool gets nothing more of the run.
    """

    extra: ClassVar[str]
    """The extra of hqde-fl that installs the tool; also the sink's name."""
    module: ClassVar[str]
    """The module of the tool."""

    path: Path | None = None
    """The run directory, if there is one."""
    table: Mapping[str, Any] = {}
    """The experiment, if there is one."""

    handle: Any = None
    """The tool's own object, once the tool's run has begun."""

    _failed = False
    _monitor: MonitorNumbers | None = None

    @abstractmethod
    def open(self) -> None:
        """Begin a run, or go on with the one in ``path``."""

    @abstractmethod
    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send the numbers of a round to the tool."""

    @abstractmethod
    def close(self, status: str) -> None:
        """End the run, which is ``finished``, ``failed`` or ``interrupted``."""

    def on_run(self, path: Path, experiment: Mapping[str, Any]) -> None:
        """Note the run directory and the experiment.

        Raises
        ------
        ConfigError
            If the tool is not installed.
        """
        self._require_installed()
        self.path, self.table = path, experiment

    def on_start(self, arrays: ArrayRecord, rounds: int) -> None:
        """Begin the tool's run; raise ``ConfigError`` if the tool is not installed."""
        self._require_installed()
        self._failed = False
        if is_recording():
            self._monitor = MonitorNumbers()
            activate(self._monitor)
        self._try("at the start", self.open)

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Send the round's numbers, and what a monitor has recorded since the last round."""
        numbers = numbers_of(record)
        if self._monitor is not None:
            numbers |= self._monitor.take()
        self._try(f"in round {record.round}", lambda: self.write(record.round, numbers))

    def on_end(self, arrays: ArrayRecord) -> None:
        """End the tool's run as finished."""
        self._end_monitoring()
        self._try("at the end", lambda: self.close("finished"))

    def on_stop(self, error: BaseException) -> None:
        """End the tool's run as failed or interrupted."""
        self._end_monitoring()
        status = "failed" if isinstance(error, Exception) else "interrupted"
        self._try("at the end", lambda: self.close(status))

    def stored_id(self, make: Callable[[], str]) -> str:
        """Return the id by which the tool knows the run; a resumed run keeps the one it had.

        Parameters
        ----------
        make : Callable[[], str]
            Makes a new id.
        """
        if self.path is None:
            return make()
        file = self.path / f"{self.extra}-run-id"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(make(), encoding="utf-8")
        return file.read_text(encoding="utf-8")

    def _end_monitoring(self) -> None:
        if self._monitor is not None:
            deactivate(self._monitor)
            self._monitor = None

    def _try(self, when: str, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:
            self._failed = True
            text = "callback %r failed %s, and gets nothing more of this run: %s"
            log(WARNING, text, self.extra, when, " ".join(describe_error(error).split()))
            with suppress(Exception):
                self.close("failed")

    def _require_installed(self) -> None:
        if importlib.util.find_spec(self.module) is None:
            raise ConfigError(
                f"callback {self.extra!r} needs {self.module}: pip install 'hqde-fl[{self.extra}]'"
            )


def numbers_of(record: RoundRecord) -> dict[str, float]:
    """Return a round's numbers by names such as ``server/accuracy`` and ``clients/kept``.

    With differential privacy those are the server's metrics and ``privacy/epsilon``: how many
    clients replied, and the sizes of their packed updates, have no noise.
    """
    numbers: dict[str, float] = {}
    for group in ("server", "clients_train", "clients_evaluate"):
        for name, value in getattr(record, group).items():
            numbers[f"{group.replace('_', '-')}/{name}"] = float(value)
    numbers["seconds"] = record.seconds
    if record.epsilon is not None:
        numbers["privacy/epsilon"] = record.epsilon
    elif record.round:
        for outcome in ("asked", "kept", *NOT_KEPT):
            numbers[f"clients/{outcome}"] = float(getattr(record, outcome))
        numbers |= {"bytes/up": float(record.bytes_up), "bytes/down": float(record.bytes_down)}
    return numbers


def flat_table(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested table as one with dotted keys that begin with ``prefix``; lists stay."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flat_table(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
