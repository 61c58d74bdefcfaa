"""The records of ``monitor.jsonl``: their format, how they are written and how they are read.

Format
------
The file is UTF-8 text with one JSON object a line. Lines are appended while a run goes, about once
in a second, and are never changed. A resumed run appends to the same file. The last line may be
incomplete if the process was killed; readers pass over any line that they cannot read, over kinds
and keys that they do not know, and take a missing key as null. The order is that of writing, which
is only nearly that of time.

Times are Unix seconds on the clock of the record's host, durations seconds, sizes bytes. ``client``
is the partition id where it is known, else the node id. ``host`` is a host's name. Keys whose value
is null are left out. The kinds, each with the class here that holds it:

``start`` (`Start`): a process begins to record; also after ``--resume``, which makes it the next
attempt at the rounds that follow.
    time, host, pid, interval: seconds between samples; format: 1

``host`` (`Host`): a host whose resources are sampled, once for each attempt.
    time, host, cores, memory: bytes of its main memory; gpu-names: list

``sample`` (`ResourceSample`): resources of a host, and of the run's process tree on it, since the
last sample of that host (since the start of recording in the first one).
    time, host, seconds: the length of that time
    of the process tree (the driver and its children; on a further Ray node, all Ray workers of the
    run's user there):
      processes: their number; cpu: CPU cores in use, e.g. 1.5; cpu-seconds: CPU time since the
      start of recording; memory: bytes of their own (resident without shared pages);
      read, written: bytes a second from and to disks
    of the process that records: driver-cpu, driver-memory; absent on further Ray nodes
    of the whole host: host-cpu: cores in use; host-memory: bytes in use; load: mean run queue of a
      minute; received, sent: bytes a second on all interfaces but loopback; loopback: bytes a
      second on that; disk-free: bytes left where the run directory is
    gpus: list of objects with utilisation in [0, 1], memory: bytes in use, tree-memory: bytes of
      the process tree (null where that is not known)
    monitor-seconds: CPU time that the monitor has taken for its samples since it started

``span`` (`Span`): something took time.
    name, start, seconds, host, round, client, parent: name of the span around it
    until: the time at which it ended, for one that was interrupted (``wait`` and ``screen`` of a
      round alternate), where ``seconds`` is less than until - start; else null
    A span with ``name = "round"`` is a round's wall time; the spans with ``parent = "round"`` are
    its phases in the driver: select (which waits for nodes), address, wait (for replies), screen,
    aggregate, evaluate, record, checkpoint. Phases do not overlap and add up to the round. Spans
    with a ``client`` lie within the phases: wait (its message was sent, it has not begun), decode,
    train, encode (on the client), transfer (its reply travels), screen (on the server), and
    evaluate.

``metric`` (`Metric`): a value of a training metric.
    time, name, value: null if it is not finite; host, round, client, epoch, batch

``sent`` (`Sent`): messages were sent.
    time, task: "train" or "evaluate"; round, clients: list

``reply`` (`Reply`): a reply was read, or its time was over.
    time, task, round, client, outcome: "accepted", or the reason as in ``clients.jsonl``:
      "rejected: ...", "failed: ...", "missing: ...", "skipped: ...", "late"

``stop`` (`Stop`): recording ended; a killed run has none.
    time, host, reason: "finished", or why the run or the monitor itself stopped

``monitor.parquet`` has the same records, one a row, with the union of all keys as columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from hqde_fl.private_files import private

FILE, PARQUET = "monitor.jsonl", "monitor.parquet"
FORMAT = 1

PHASES = (
    "select", "address", "wait", "screen", "aggregate", "evaluate", "record", "checkpoint",
)  # fmt: skip
"""Names of the spans that make up a round, in order."""
CLIENT_PHASES = ("wait", "decode", "train", "encode", "transfer", "screen", "evaluate")
"""Names of the spans of a client in a round, in order."""


@dataclass(frozen=True, slots=True)
class Record:
    """Base class of the records; see the module's docstring for the fields."""

    kind: ClassVar[str]
    time: float


@dataclass(frozen=True, slots=True)
class Start(Record):
    """A process begins to record."""

    kind: ClassVar[str] = "start"
    host: str
    pid: int
    interval: float
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Host(Record):
    """A host whose resources are sampled."""

    kind: ClassVar[str] = "host"
    host: str
    cores: int
    memory: int
    gpu_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gpu:
    """The use of one GPU at the time of a sample."""

    utilisation: float | None
    memory: int | None
    tree_memory: int | None = None


@dataclass(frozen=True, slots=True)
class ResourceSample(Record):
    """Resources of a host and of the run's process tree on it."""

    kind: ClassVar[str] = "sample"
    host: str
    seconds: float
    processes: int = 0
    cpu: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0
    read: float | None = None
    written: float | None = None
    driver_cpu: float | None = None
    driver_memory: int | None = None
    host_cpu: float | None = None
    host_memory: int | None = None
    load: float | None = None
    received: float | None = None
    sent: float | None = None
    loopback: float | None = None
    disk_free: int | None = None
    gpus: tuple[Gpu, ...] = ()
    monitor_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Span(Record):
    """Something took time; ``time`` is its start, which the file calls ``start``."""

    kind: ClassVar[str] = "span"
    name: str
    seconds: float
    round: int | None = None
    client: int | None = None
    parent: str | None = None
    host: str | None = None
    until: float | None = None

    @property
    def end(self) -> float:
        """The time at which it ended."""
        return self.time + self.seconds if self.until is None else self.until


@dataclass(frozen=True, slots=True)
class Metric(Record):
    """A value of a training metric."""

    kind: ClassVar[str] = "metric"
    name: str
    value: float | None
    round: int | None = None
    client: int | None = None
    epoch: int | None = None
    batch: int | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Sent(Record):
    """Messages were sent to clients."""

    kind: ClassVar[str] = "sent"
    task: str
    round: int
    clients: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reply(Record):
    """A client's reply was read, or its time was over."""

    kind: ClassVar[str] = "reply"
    task: str
    round: int
    client: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Stop(Record):
    """Recording ended."""

    kind: ClassVar[str] = "stop"
    host: str
    reason: str


KINDS: dict[str, type[Record]] = {
    record.kind: record for record in (Start, Host, ResourceSample, Span, Metric, Sent, Reply, Stop)
}


def file_keys(record: type) -> dict[str, str]:
    """Return field -> key in the file of a class of records."""
    names = {field.name: field.name.replace("_", "-") for field in fields(record)}
    return names | {"time": "start"} if record is Span else names


_FILE_KEYS = {record: file_keys(record) for record in (*KINDS.values(), Gpu)}


def to_mapping(record: Record) -> dict[str, Any]:
    """Return a record as the JSON object of its line; null entries are left out."""
    return {"kind": record.kind, **_entries(record)}


def _entries(record: Record | Gpu) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, key in _FILE_KEYS[type(record)].items():
        value = getattr(record, name)
        if isinstance(value, float):
            if not math.isfinite(value):
                continue
            value = round(value, 6)
        elif isinstance(value, tuple):
            value = [_entries(part) if isinstance(part, Gpu) else part for part in value]
        if value is not None:
            entries[key] = value
    return entries


def from_mapping(entries: Mapping[str, Any]) -> Record | None:
    """Return the record that a JSON object holds, or None if it is not one of the known kinds.

    Raises
    ------
    TypeError
        If a key that the kind needs is missing.
    """
    record = KINDS.get(entries.get("kind", ""))
    if record is None:
        return None
    values = _values(record, entries)
    if record is ResourceSample:
        gpus = [
            _values(Gpu, {"utilisation": None, "memory": None, **g}) for g in values.get("gpus", ())
        ]
        values["gpus"] = tuple(Gpu(**gpu) for gpu in gpus)
    if record is Metric:
        values.setdefault("value", None)
    return record(**values)


def _values(record: type, entries: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: entries[key] for name, key in _FILE_KEYS[record].items() if key in entries}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


def to_line(record: Record) -> str:
    """Return a record as a line of the file, with its line break."""
    return json.dumps(to_mapping(record), allow_nan=False, separators=(",", ":")) + "\n"


def from_line(line: str | bytes) -> Record | None:
    """Return the record of a line, or None if the line is damaged or of an unknown kind."""
    try:
        return from_mapping(json.loads(line))
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append records to a file; an incomplete last line is ended first.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    text = "".join(map(to_line, records)).encode()
    if not text:
        return
    with open(path, "ab+", opener=private) as file:
        if file.tell() or file.seek(0, 2):
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                text = b"\n" + text
        file.write(text)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file in order; none if there is no such file.

    A last line without its line break is read too, if it is whole.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            record = from_line(line)
            if record is not None:
                yield record


def without_repeated_rounds(records: Iterable[Record]) -> list[Record]:
    """Return the records without those of rounds that a resumed run ran again.

    A record that names a round is left out if a later attempt names the round too. Samples and
    other records without a round all stay: what they measured has happened.
    """
    attempt, attempts, last = 0, [], {}
    kept = list(records)
    for record in kept:
        attempt += isinstance(record, Start)
        attempts.append(attempt)
        if (number := getattr(record, "round", None)) is not None:
            last[number] = attempt
    return [
        record
        for record, attempt in zip(kept, attempts, strict=True)
        if last.get(getattr(record, "round", None), attempt) == attempt
    ]
