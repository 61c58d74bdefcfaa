"""Spans of time and training metrics of the code that runs, for whoever records them.

Nothing is recorded, at almost no cost, unless a recorder is active in this process: a
``PerformanceMonitor``, or the list in which a worker collects what its driver is to record.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from hqde_fl.monitor.schema import Metric, Record, Reply, Sent, Span

P = ParamSpec("P")
T = TypeVar("T")

TRAIN, EVALUATE = "train", "evaluate"
"""Tasks of clients."""
ROUND = "round"
"""Name of the span that a round takes."""


class Recorder(Protocol):
    """Takes records, from any thread; it must not raise."""

    def add(self, record: Record) -> None:
        """Take a record."""
        ...


_recorders: tuple[Recorder, ...] = ()
_changing = threading.Lock()
_Scope = tuple[str | None, int | None, int | None]
_OUTSIDE: _Scope = (None, None, None)


class _Local(threading.local):
    """The span around the code that a thread runs: its name, round and client."""

    scope: _Scope = _OUTSIDE


_local = _Local()


def is_recording() -> bool:
    """Return True if a recorder is active in this process."""
    return bool(_recorders)


def active_recorders() -> tuple[Recorder, ...]:
    """Return the recorders that are active in this process."""
    return _recorders


def activate(recorder: Recorder) -> None:
    """Give all further records of this process to a recorder, beside those that are active."""
    global _recorders
    with _changing:
        if not any(active is recorder for active in _recorders):
            _recorders = (*_recorders, recorder)


def deactivate(recorder: Recorder) -> None:
    """Give no further records to a recorder."""
    global _recorders
    with _changing:
        _recorders = tuple(active for active in _recorders if active is not recorder)


def deactivate_all() -> None:
    """Give no further records to anyone."""
    global _recorders
    _recorders = ()


if hasattr(os, "register_at_fork"):  # a monitor's thread does not go with a forked process
    os.register_at_fork(after_in_child=deactivate_all)


@contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Let a recorder be active in the block."""
    activate(recorder)
    try:
        yield
    finally:
        deactivate(recorder)


def add_record(record: Record) -> None:
    """Give a record to the active recorders."""
    if isinstance(record, Span):
        if record.name == TRAIN:
            _trained.add((record.round, record.client))
        elif record.name == ROUND:
            _trained.clear()
    for recorder in _recorders:
        recorder.add(record)


_trained: set[tuple[int | None, int | None]] = set()
"""Rounds and clients whose training was measured where it ran, of the current round."""


class span:  # noqa: N801 - it reads as a statement
    """Record the time of a block, or of each call of a function: ``with span("decode"):``.

    Spans in the block, of the same thread, name this one as their parent and are of the same round
    and client unless they say otherwise. The span is recorded too if an exception ends the block.

    Parameters
    ----------
    name : str
        What is done.
    round, client : int, optional
        The round and the client that it is done for; by default those of the span around it.
    """

    __slots__ = ("_began", "_outer", "_round_client", "_started", "name")

    def __init__(self, name: str, *, round: int | None = None, client: int | None = None) -> None:
        self.name, self._round_client = name, (round, client)
        self._outer: _Scope | None = None

    def __enter__(self) -> Self:
        if _recorders:
            self._outer = _enter(self.name, *self._round_client)
            self._began, self._started = time.time(), time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._outer is not None:
            seconds = time.perf_counter() - self._started
            _, number, client = _local.scope
            _local.scope = self._outer
            parent = self._outer[0]
            self._outer = None
            add_record(Span(self._began, self.name, seconds, number, client, parent))

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function with each of its calls recorded."""
        number, client = self._round_client

        @functools.wraps(function)
        def recorded(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(self.name, round=number, client=client):
                return function(*args, **kwargs)

        return recorded


@contextmanager
def client_scope(number: int | None, client: int) -> Iterator[None]:
    """Let spans and metrics in the block be of a client in a round; they have no parent."""
    outer = _enter(None, number, client)
    try:
        yield
    finally:
        _local.scope = outer


@contextmanager
def client_call(number: int | None, client: int, task: str = TRAIN) -> Iterator[None]:
    """Record the phases of a client's call in the block: decode, train or evaluate, and encode.

    Decoding ends, and encoding begins, with the span of that name which the client records itself;
    a client that records none trains all the time.

    Parameters
    ----------
    number : int or None
        The round.
    client : int
        The client's partition id.
    task : str
        What it is asked for, ``"train"`` or ``"evaluate"``.
    """
    if not _recorders:
        yield
        return
    watch = _Watch(task)
    began = time.time()
    activate(watch)
    try:
        with client_scope(number, client):
            yield
    finally:
        deactivate(watch)
        ended, inner = time.time(), watch.span
        if inner is None:
            add_span(task, began, ended - began, round=number, client=client)
        else:
            add_span("decode", began, inner.time - began, round=number, client=client)
            add_span("encode", inner.end, ended - inner.end, round=number, client=client)


class _Watch:
    """A recorder that only remembers the last span of a name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.span: Span | None = None

    def add(self, record: Record) -> None:
        if isinstance(record, Span) and record.name == self._name:
            self.span = record


def _enter(name: str | None, number: int | None, client: int | None) -> _Scope:
    """Enter a scope in this thread, and return the one around it."""
    outer = _local.scope
    _local.scope = (
        name,
        outer[1] if number is None else number,
        outer[2] if client is None else client,
    )
    return outer


def add_span(
    name: str,
    start: float,
    seconds: float,
    *,
    round: int | None = None,
    client: int | None = None,
    until: float | None = None,
) -> None:
    """Record a span that was measured elsewhere.

    Parameters
    ----------
    name : str
        What was done.
    start, seconds : float
        When it began (Unix time), and how long it took, >= 0.
    round, client : int, optional
        The round and the client that it was done for; by default those of the span around.
    until : float, optional
        When it ended, if it was interrupted and took less than until - start.
    """
    if _recorders:
        parent, number, around = _local.scope
        number = number if round is None else round
        if client is not None:
            parent = None  # it need not have happened here
        client = around if client is None else client
        add_record(Span(start, name, max(seconds, 0.0), number, client, parent, until=until))


def add_reported_training(number: int, client: int, seconds: float) -> None:
    """Record the training time that a client reports in a reply which has just come.

    Nothing is recorded if the training was measured where it ran.
    """
    if _recorders and (number, client) not in _trained:
        add_span(TRAIN, time.time() - seconds, seconds, round=number, client=client)


def alternating(items: Iterable[T], waiting: str, working: str) -> Iterator[T]:
    """Yield items; record the time until they are there as one span, that between as another.

    Parameters
    ----------
    items : Iterable
        The items, such as replies that arrive one by one.
    waiting, working : str
        Names of the spans: of the time in which the next item is awaited, and of the time that the
        caller takes for each.
    """
    if not _recorders:
        yield from items
        return
    outer = _local.scope
    began, waited, worked = time.time(), 0.0, 0.0
    first, last, source = began, began, None
    mark = time.perf_counter()
    try:
        source = iter(items)
        while True:
            try:
                item = next(source)
            except StopIteration:
                break
            now = time.perf_counter()
            waited, mark = waited + now - mark, now
            if worked == 0.0:
                first = time.time()
            _local.scope = (working, *outer[1:])
            try:
                yield item
            finally:
                del item  # it may be large
                _local.scope = outer
                now = time.perf_counter()
                worked, mark = worked + now - mark, now
                last = time.time()
    finally:
        waited += time.perf_counter() - mark
        add_span(waiting, began, waited, until=time.time())
        if worked:
            add_span(working, first, worked, until=last)


def note_sent(number: int, clients: Sequence[int], task: str = TRAIN) -> None:
    """Record that messages of a round are sent to clients.

    Parameters
    ----------
    number : int
        The round.
    clients : Sequence of int
        The clients' partition ids, or node ids where these are not known.
    task : str
        What they are asked for, ``"train"`` or ``"evaluate"``.
    """
    if _recorders:
        add_record(Sent(time.time(), task, number, tuple(clients)))


def note_reply(number: int, client: int, outcome: str = "accepted", task: str = TRAIN) -> None:
    """Record that a client's reply was read, or did not come; see ``note_sent`` and ``Reply``."""
    if _recorders:
        add_record(Reply(time.time(), task, number, client, outcome))


def record_training_metric(
    name: str, value: float, epoch: int | None = None, batch: int | None = None
) -> None:
    """Record a value of a training metric, if anyone records this run; else do nothing.

    Clients may call it where they train: the value is recorded with their id and the round.

    Parameters
    ----------
    name : str
        The metric's name.
    value : float
        Its value, a number or something that ``float`` makes one of, such as a tensor.
    epoch, batch : int, optional
        Where in the training it was measured; left out of the record if it is no number.
    """
    if not _recorders:
        return
    name = str(name).encode(errors="replace").decode()
    try:
        number = float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        if name not in _refused:  # a run must not fail because it is being measured
            _refused.add(name)
            getLogger(__name__).warning("metric %r is not a number, but %.200r", name, value)
        return
    _, server_round, client = _local.scope
    where = (_whole_number(epoch), _whole_number(batch))
    add_record(Metric(time.time(), name, number, server_round, client, *where))


def _whole_number(value: Any) -> int | None:
    """Return a NumPy integer, a tensor of one number and the like as an int; else None."""
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


_refused: set[str] = set()
"""Names of metrics with a value that was no number, of which one warning is enough."""


class CollectedRecords:
    """A recorder that keeps the records of a worker until its driver takes them.

    Parameters
    ----------
    limit : int
        Maximum number of records; further ones are only counted.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self.records: list[Record] = []
        self.dropped = 0
        self._limit = limit

    def add(self, record: Record) -> None:
        """Keep a record."""
        if len(self.records) < self._limit:
            self.records.append(record)
        else:
            self.dropped += 1
