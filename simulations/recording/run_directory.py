"""The run directory: written line by line while a run goes on, read back when it is over.

Everything in it is strict JSON (``null`` for what is not finite) with kebab-case keys in a fixed
order. Times of day are in the manifest only, durations in keys that end in ``seconds`` only, so
that two runs can be compared byte by byte apart from those.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from logging import WARNING
from pathlib import Path
from typing import Any, Self

import psutil
from flwr.app import ArrayRecord
from safetensors.torch import save

from hqde_fl.errors import ConfigError, HQDEError, RunError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.records import from_record
from hqde_fl.simulations.console.interruption import interrupted, uninterrupted
from hqde_fl.simulations.experiment.model import Experiment
from hqde_fl.simulations.experiment.own_modules import folders_of
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.strategies.callbacks import Callback, ClientRecord, RoundRecord
from hqde_fl.strategies.void_rounds import void_summary

MANIFEST, ROUNDS, CLIENTS = "manifest.json", "rounds.jsonl", "clients.jsonl"
MODEL, REPORT = "model.safetensors", "report.html"

Measure = Callable[[RoundRecord, ArrayRecord], Mapping[str, Any]]
"""(round, model after it) -> what to say of it."""

_NEEDED = {"error", "experiment", "faulty", "name", "started", "status"}
"""Keys without which a file is no manifest."""

PACKAGES = ("hqde-fl", "torch", "flwr", "ray", "numpy")


class RunDirectory(Callback):
    """Writes what happens in a run into its directory.

    Parameters
    ----------
    path : Path
        The directory; made if need be.
    experiment : Experiment
        What is run.
    measures : Mapping[str, Measure], optional
        More to say in every line of ``rounds.jsonl``, by the name under which it is said.
    resumed : Mapping[str, Any], optional
        About the resumption, for the manifest, of the run that is in the directory and goes on.

    Raises
    ------
    ConfigError
        If there is a run in the directory already.
    """

    def __init__(
        self,
        path: Path,
        experiment: Experiment,
        measures: Mapping[str, Measure] | None = None,
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        if resumed is None and (path / MANIFEST).exists():
            raise ConfigError(f"{path} holds another run: choose a directory that does not")
        self.path = path
        self._experiment, self._measures = experiment, dict(measures or {})
        self._filters = experiment.filters
        self._resumed = resumed
        self._final: Mapping[str, float | None] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the manifest: the run is running, and then finished, interrupted or failed."""
        self.path.mkdir(parents=True, exist_ok=True)
        experiment, began, resumptions = self._experiment, _now(), []
        folders = folders_of(experiment.task["name"])
        if self._resumed is not None:
            before: Mapping[str, Any] = {}
            with suppress(ConfigError):  # the checkpoints are enough to go on
                before = manifest_of(self.path)
            self._final = Run(self.path, before, _lines(self.path / ROUNDS), ()).final
            began = before.get("started", began)
            now = {"at": _now(), "engine": experiment.engine.name, **self._resumed}
            resumptions = [*before.get("resumed", ()), now]
        manifest = {
            "name": experiment.name,
            "status": "running",
            "error": None,
            "started": began,
            "ended": None,
            "resumed": resumptions,
            "seed": experiment.seed,
            "engine": experiment.engine.name,
            "final": {},
            "breakdown": experiment.rule.breakdown(experiment.sampled),
            "filters": self._filters,
            "faulty": {str(client): name for client, name in experiment.faulty.items()},
            "experiment": experiment.to_table(),
            **({"import-from": folders} if folders else {}),
            "versions": versions(),
            "hardware": hardware(),
        }
        _write(self.path, manifest)
        for name in (ROUNDS, CLIENTS):
            (self.path / name).touch()
        try:
            yield
        except BaseException as error:
            if not self._close_interrupted(error):
                with suppress(RunError):
                    close(self.path, "failed", f"{type(error).__name__}: {error}")
            raise
        close(self.path, "finished", final=self._final)

    @contextmanager
    def interruption_first(self) -> Iterator[None]:
        """Write that the run is interrupted before anything else is brought to an end."""
        try:
            yield
        except BaseException as error:
            self._close_interrupted(error)
            raise

    def _close_interrupted(self, error: BaseException) -> bool:
        """Write that the run is interrupted, if that is what an exception is about."""
        # SystemExit is what Flower makes of the SIGTERM that stops a run
        ended = interrupted() or isinstance(error, KeyboardInterrupt | SystemExit)
        if ended:
            # the disk may be full, and the error about just that
            with uninterrupted(), suppress(RunError):
                close(self.path, "interrupted")
        return ended

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Append the round's lines."""
        self._final = record.server
        faulty = self._experiment.planned.in_round(record.round)
        lines = [
            _kebab({**dataclasses.asdict(each), "fault": faulty.get(_partition(each))})
            for each in record.clients
        ]
        _append(self.path / CLIENTS, lines)
        more = {name: measure(record, arrays) for name, measure in self._measures.items()}
        found = {"exclusion": Detection.of(lines, self._filters).to_line(), **more}
        _append(self.path / ROUNDS, [round_line(record) | strict(found)])

    def on_end(self, arrays: ArrayRecord) -> None:
        """Save the final model."""
        state = {name: tensor.contiguous() for name, tensor in from_record(arrays).items()}
        replace_file(self.path / MODEL, save(state))


@dataclass(frozen=True)
class Run:
    """A run directory, read back.

    Parameters
    ----------
    path : Path
        The directory.
    manifest : Mapping[str, Any]
        What was run, where and when, and how it ended.
    rounds, clients : tuple[Mapping[str, Any], ...]
        The lines of ``rounds.jsonl`` and ``clients.jsonl``.
    """

    path: Path
    manifest: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...]
    clients: tuple[Mapping[str, Any], ...]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a directory, of a run that is not over too.

        Raises
        ------
        ConfigError
            If there is no run in it, or a line that is no record: which.
        """
        path = Path(path)
        return cls(path, manifest_of(path), _lines(path / ROUNDS), _lines(path / CLIENTS))

    @property
    def final(self) -> Mapping[str, float | None]:
        """The server's metrics of the last round."""
        return dict(self.rounds[-1]["server"]) if self.rounds else {}

    @property
    def accuracy(self) -> float | None:
        """The final accuracy, if it was measured."""
        return self.final.get("accuracy")

    @property
    def void_rounds(self) -> str | None:
        """One line about the rounds without an aggregate; None if there are none."""
        void = [line["round"] for line in self.rounds if line.get("void")]
        return void_summary(void, len(self.rounds) - 1)

    @property
    def seconds(self) -> float:
        """Wall time of all rounds."""
        return float(sum(each["seconds"] or 0.0 for each in self.rounds))

    @cached_property
    def faulty(self) -> dict[int, str]:
        """Partition id -> fault."""
        return {int(client): name for client, name in self.manifest["faulty"].items()}

    @cached_property
    def filters(self) -> bool:
        """Whether the rule singles out clients; told from the experiment in older directories."""
        if isinstance(found := self.manifest.get("filters"), bool):
            return found
        try:
            return Experiment.parse(self.manifest["experiment"]).filters
        except HQDEError:  # of a version with other keys: what it did then shows it
            return any(each["reason"] == "filtered" for each in self.clients)

    @cached_property
    def detection(self) -> Detection:
        """How well faulty clients were told from honest ones."""
        return Detection.of(self.clients, self.filters)


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of a run directory; its other files may be damaged.

    Raises
    ------
    ConfigError
        If there is none.
    """
    found = None
    with suppress(OSError):
        found = _json((path / MANIFEST).read_bytes())
    if not isinstance(found, dict) or not found.keys() >= _NEEDED:
        raise ConfigError(f"{path} is no run directory: no readable {MANIFEST}")
    return found


def attempt(path: Path) -> tuple[str, int] | None:
    """Which attempt at a run a manifest is about: when it began, how often it has gone on."""
    try:
        manifest = manifest_of(path)
    except ConfigError:
        return None
    return str(manifest["started"]), len(manifest.get("resumed", ()))


def round_line(record: RoundRecord) -> dict[str, Any]:
    """A round as a line of ``rounds.jsonl``: everything but its clients' records."""
    fields = dataclasses.fields(record)
    return _kebab(
        {each.name: getattr(record, each.name) for each in fields if each.name != "clients"}
    )


def close(
    path: Path,
    status: str,
    error: str | None = None,
    final: Mapping[str, float | None] | None = None,
) -> None:
    """Write into a manifest how its run ended, unless it says so already."""
    try:
        manifest = manifest_of(path)
    except ConfigError:
        return  # it ended before it began
    if manifest["status"] == "running":
        _write(path, manifest | {"status": status, "error": error, "ended": _now(), "final": final})


def close_interrupted(path: Path, since: float) -> None:
    """Write into a manifest that its run was interrupted, unless it had ended before.

    Parameters
    ----------
    path : Path
        The run directory.
    since : float
        When the signal came, in seconds since the epoch. A failure after that is what the process
        that wrote the directory made of being ended.
    """
    try:
        manifest = manifest_of(path)
    except ConfigError:
        return  # it ended before it began
    ended = manifest.get("ended")
    second = since - 1.0  # times in a manifest are whole seconds
    if (
        manifest["status"] == "failed"
        and ended
        and datetime.fromisoformat(ended).timestamp() > second
    ):
        note(path, {"status": "interrupted", "error": None})
    else:
        close(path, "interrupted")


def note(path: Path, facts: Mapping[str, Any]) -> None:
    """Add facts to a manifest, as long as it can be written."""
    try:
        manifest = manifest_of(path)
    except ConfigError:
        return  # the run ended before it began
    try:
        _write(path, manifest | _kebab(facts))
    except RunError as error:  # what they are about is more important
        log(WARNING, "%s: not noted: %s", error, dict(facts))


def versions() -> dict[str, str | None]:
    """Of Python and the packages that decide a result."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def hardware() -> dict[str, Any]:
    """Of this machine."""
    return {
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory-gib": round(psutil.virtual_memory().total / 2**30, 1),
        "machine": platform.machine(),
        "system": platform.platform(),
    }


def strict(value: Any) -> Any:
    """A value as strict JSON can say it: nan and infinity become null, mappings are copied."""
    if isinstance(value, Mapping):
        return {str(key): strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [strict(each) for each in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return strict(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _kebab(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "-"): strict(value) for key, value in fields.items()}


def _partition(client: ClientRecord) -> int:
    return -1 if client.partition is None else client.partition


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def _lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    if not path.exists():
        return ()
    data, found = path.read_bytes(), []
    # a line without its end was being written when the run was killed
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        record = _json(line)
        if not isinstance(record, dict):
            raise ConfigError(f"{path}, line {number}: damaged, no record of a run")
        found.append(record)
    return tuple(found)


def _json(data: bytes) -> Any:
    """What JSON says; None for what is none."""
    try:
        return json.loads(data.decode())
    except ValueError:
        return None


def _write(path: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(strict(manifest), indent=2, allow_nan=False) + "\n"
    replace_file(path / MANIFEST, text.encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
