"""Read a run directory again and again while another process writes it, each line once."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from hqde_fl.clients.objective import Objective
from hqde_fl.errors import ConfigError
from hqde_fl.monitor import schema
from hqde_fl.monitor.schema import (
    Host,
    Record,
    Reply,
    ResourceSample,
    Sent,
    Span,
    Start,
    Stop,
    from_line,
)
from hqde_fl.simulations.recording.file_names import CLIENTS, MANIFEST, ROUNDS
from hqde_fl.simulations.recording.manifest import read_manifest
from hqde_fl.strategies.outcomes import FILTERED, KEPT, NOT_KEPT, SKIPPED, outcome_of

HEAD_BYTES = 1 << 16
TAIL_BYTES = 1 << 22
"""Bytes of a long file that are read when it is first looked at: at its beginning, at its end."""

MAX_PROBLEMS = 200
"""Latest clients without a usable update that are remembered."""

RECENT_ROUNDS = 10
"""Latest rounds that estimates of time are made from."""

MEMORY = 0.5
"""Weight of the past in the moving mean of a client's times."""

ACCEPTED = "accepted"

_DAMAGED = (TypeError, ValueError, AttributeError)
"""Exceptions of a line whose values are not what its keys hold."""


class GrowingFile:
    """A file of lines that another process appends to.

    Parameters
    ----------
    path : Path
        The file, which need not exist yet.
    tail : int, optional
        Bytes at the end that are read of a file that is already long, besides ``HEAD_BYTES`` at its
        beginning; all of it by default.
    """

    def __init__(self, path: Path, tail: int | None = None) -> None:
        self._path, self._tail, self._offset = path, tail, 0

    def restart(self) -> None:
        """Read the file from its beginning the next time."""
        self._offset = 0

    @property
    def was_cut(self) -> bool:
        """True if the file is shorter than what was read of it, or is gone."""
        try:
            return self._path.stat().st_size < self._offset
        except OSError:
            return self._offset > 0

    def new_lines(self) -> Iterator[bytes]:
        """Yield the complete lines that were added since the last call."""
        try:
            file = self._path.open("rb")
        except OSError:
            return
        with file:
            size = file.seek(0, 2)
            if self._offset == 0 and self._tail is not None and size > HEAD_BYTES + self._tail:
                file.seek(0)
                head = file.read(HEAD_BYTES)
                yield from head[: head.rfind(b"\n") + 1].splitlines()
                file.seek(size - self._tail)
                file.readline()
                self._offset = file.tell()
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        yield from whole.splitlines()


@dataclass(frozen=True)
class Problem:
    """A client whose update could not be used in a round.

    Parameters
    ----------
    round : int
        The round.
    client : int
        Its partition id, or its node id if that is unknown.
    reason : str
        The reason, as in ``clients.jsonl``.
    """

    round: int
    client: int
    reason: str


@dataclass(frozen=True)
class InFlight:
    """A client that was sent a message and has not replied.

    Parameters
    ----------
    client : int
        Its partition id, or its node id if that is unknown.
    task : str
        ``train`` or ``evaluate``.
    seconds : float
        Time since the message was sent.
    usual : float or None
        Seconds that it usually takes, or if it never replied, the median of all clients; None if
        no client has replied yet.
    """

    client: int
    task: str
    seconds: float
    usual: float | None

    @property
    def slowness(self) -> float:
        """The time in flight as a multiple of the usual one; 0 if that is unknown."""
        return self.seconds / self.usual if self.usual else 0.0


class LiveRun:
    """The state of a run, as of the last ``refresh``.

    Parameters
    ----------
    path : Path
        The run directory, which need not exist yet.

    Attributes
    ----------
    manifest : Mapping[str, Any] or None
        The manifest; None before there is one.
    last : Mapping[str, Any] or None
        The last line of ``rounds.jsonl``.
    metrics : dict[str, list[float]]
        The finite values of each of the server's metrics, in order.
    counts : Counter[str]
        Clients in all rounds by outcome, and those ``asked``.
    hosts : dict[str, Host]
        What the hosts have.
    samples : dict[str, ResourceSample]
        The last sample of each host.
    start, stop : Start or None, Stop or None
        Where recording of the present attempt began and, if it did, ended.
    seen : float
        The latest time of any record; 0 before the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Mapping[str, Any] | None = None
        self._stamp: tuple[int, ...] | None = None
        self._rounds = GrowingFile(path / ROUNDS)
        self._clients = GrowingFile(path / CLIENTS, TAIL_BYTES)
        self._monitor = GrowingFile(path / schema.FILE, TAIL_BYTES)
        self.hosts: dict[str, Host] = {}
        self.samples: dict[str, ResourceSample] = {}
        self.start: Start | None = None
        self.stop: Stop | None = None
        self.seen = 0.0
        self._sent: dict[tuple[str, int], float] = {}
        self._sent_rounds: dict[str, int] = {}
        self._usual: dict[tuple[str, int], float] = {}
        self._early: list[Problem] = []
        self._phases: dict[int, dict[str, float]] = {}
        self._forget_rounds()

    def _forget_rounds(self) -> None:
        self._rounds.restart()
        self._clients.restart()
        self.last: Mapping[str, Any] | None = None
        self.metrics: dict[str, list[float]] = {}
        self.counts: Counter[str] = Counter()
        self._seconds: deque[float] = deque(maxlen=RECENT_ROUNDS)
        self._problems: deque[Problem] = deque(maxlen=MAX_PROBLEMS)

    def refresh(self) -> None:
        """Read what was written since the last call; nothing here ever fails for what it reads."""
        if self._read_manifest() or self._rounds.was_cut or self._clients.was_cut:
            self._forget_rounds()
        if self._monitor.was_cut:
            self._monitor.restart()
        for line in self._rounds.new_lines():
            with suppress(*_DAMAGED):
                self._add_round(_parsed(line))
        for line in self._clients.new_lines():
            with suppress(*_DAMAGED):
                self._add_client(_parsed(line))
        for line in self._monitor.new_lines():
            if (record := from_line(line)) is not None:
                with suppress(*_DAMAGED):
                    self._add_record(record)

    @property
    def rounds(self) -> int:
        """The number of the last round that is to be run; 0 before there is a manifest."""
        return int((self.manifest or {}).get("experiment", {}).get("rounds", 0))

    @property
    def round(self) -> int:
        """The last completed round; 0 if there is none, or only the initial model."""
        return int(self.last["round"]) if self.last else 0

    @property
    def status(self) -> str:
        """The manifest's status: ``running``, ``finished``, ...; ``waiting`` before it exists."""
        return str(self.manifest["status"]) if self.manifest else "waiting"

    @property
    def objective(self) -> Objective:
        """The primary metric of the run's task, and the direction of its metrics."""
        recorded = (self.manifest or {}).get("objective")
        if isinstance(recorded, Mapping):
            with suppress(KeyError):
                return Objective(recorded["primary"], recorded["higher-is-better"])
        return Objective("accuracy" if "accuracy" in self.metrics else "loss")

    @property
    def monitored(self) -> bool:
        """True if the run's clients and resources are recorded."""
        return self.start is not None

    @property
    def round_seconds(self) -> float | None:
        """Median time of the latest rounds; None before the first."""
        return median(self._seconds) if self._seconds else None

    @property
    def problems(self) -> list[Problem]:
        """Clients whose updates could not be used, the latest first."""
        early = [problem for problem in self._early if problem.round > self.round]
        return [*reversed(early), *reversed(self._problems)]

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase in the latest recorded rounds together, the longest first."""
        total: dict[str, float] = {}
        for phases in self._phases.values():
            for name, seconds in phases.items():
                total[name] = total.get(name, 0.0) + seconds
        return dict(sorted(total.items(), key=lambda phase: -phase[1]))

    @property
    def current_round(self) -> int:
        """The round whose messages were sent last; 0 if that is not recorded."""
        return max(self._sent_rounds.values(), default=0)

    def in_flight(self, now: float) -> list[InFlight]:
        """Return the clients that have not replied, the longest in flight against usual first."""
        if self.status != "running" or self.stop is not None:
            return []
        waiting = []
        for (task, client), sent in self._sent.items():
            usual = self._usual.get((task, client))
            if usual is None:
                usual = self._usual_of_all(task)
            waiting.append(InFlight(client, task, max(0.0, now - sent), usual))
        return sorted(waiting, key=lambda one: (-one.slowness, -one.seconds, one.client))

    def _usual_of_all(self, task: str) -> float | None:
        times = [seconds for (kind, _), seconds in self._usual.items() if kind == task]
        return median(times) if times else None

    def _read_manifest(self) -> bool:
        """Read the manifest if it has changed; return True if it belongs to another attempt."""
        try:
            stat = (self.path / MANIFEST).stat()
        except OSError:
            gone, self.manifest, self._stamp = self.manifest is not None, None, None
            return gone
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp == self._stamp:
            return False
        before = self.manifest
        with suppress(ConfigError):
            self.manifest, self._stamp = read_manifest(self.path), stamp
        return before is not None and _attempt(before) != _attempt(self.manifest or {})

    def _add_round(self, line: Mapping[str, Any]) -> None:
        if not isinstance(line.get("round"), int):
            return
        for name, value in (line.get("server") or {}).items():
            if isinstance(value, int | float) and isfinite(value):
                self.metrics.setdefault(name, []).append(float(value))
        if line["round"]:
            self._seconds.append(float(line.get("seconds") or 0.0))
            for name in ("asked", KEPT, *NOT_KEPT):
                self.counts[name] += int(line.get(name) or 0)
        self.last = line

    def _add_client(self, line: Mapping[str, Any]) -> None:
        reason = line.get("reason")
        if reason and outcome_of(reason) not in (FILTERED, SKIPPED):
            known = line.get("partition")
            client = line.get("node", -1) if known is None else known
            self._problems.append(Problem(int(line.get("round", 0)), int(client), str(reason)))

    def _add_record(self, record: Record) -> None:
        self.seen = max(self.seen, record.time)
        if (
            self.stop is not None
            and record.time > self.stop.time
            and isinstance(record, ResourceSample)
        ):
            self.stop = None  # the beginning of this attempt was not read
        match record:
            case Start():
                self.start, self.stop = record, None
                self._sent.clear()
                self._sent_rounds.clear()
                self._early.clear()
                self.hosts, self.samples = {}, {}
            case Stop():
                if self.start is None or record.host == self.start.host:
                    self.stop = record
            case Host():
                self.hosts[record.host] = record
            case ResourceSample():
                self.samples[record.host] = record
            case Sent():
                self._add_sent(record)
            case Reply():
                self._add_reply(record)
            case Span(parent="round", round=int(number)):
                phases = self._phases.setdefault(number, {})
                phases[record.name] = phases.get(record.name, 0.0) + record.seconds
                while len(self._phases) > RECENT_ROUNDS:
                    del self._phases[next(iter(self._phases))]

    def _add_sent(self, record: Sent) -> None:
        if self._sent_rounds.get(record.task) != record.round:
            self._sent = {key: time for key, time in self._sent.items() if key[0] != record.task}
            self._sent_rounds[record.task] = record.round
            self._early = [problem for problem in self._early if problem.round == record.round]
        for client in record.clients:
            self._sent[record.task, client] = record.time

    def _add_reply(self, record: Reply) -> None:
        key = record.task, record.client
        if self._sent_rounds.get(record.task) == record.round and key in self._sent:
            taken = max(0.0, record.time - self._sent.pop(key))
            if record.outcome == ACCEPTED:
                past = self._usual.get(key, taken)
                self._usual[key] = MEMORY * past + (1 - MEMORY) * taken
        if record.task == "train" and outcome_of(record.outcome) not in (ACCEPTED, SKIPPED):
            self._early.append(Problem(record.round, record.client, record.outcome))


def _parsed(line: bytes) -> Mapping[str, Any]:
    """Return the object of a line of JSON, an empty one if the line is damaged."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _attempt(manifest: Mapping[str, Any]) -> tuple[object, int]:
    return manifest.get("started"), len(manifest.get("resumed") or ())
