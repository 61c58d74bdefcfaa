"""A deployment Grid that survives malformed replies and SuperNodes that stall or die.

Flower's own Grid asks for all replies at once and waits for each until its last byte has arrived.
So one SuperNode that stalls blocks the round, and one malformed upload ends the run inside the
Grid, before any Strategy sees it. Here a thread of the round asks for every reply separately, in
small steps, and turns any failure into an error reply of the node in question.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from logging import WARNING
from math import inf
from typing import final

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from hqde_fl.errors import CohortError, ConfigError
from hqde_fl.protocol.flower_internals import ErrorCode, NodeInfo, log
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.wrapped_grid import WrappedGrid
from hqde_fl.simulations.engines.deployment.inflate import inflate, unlisted_children
from hqde_fl.simulations.engines.deployment.limits import (
    CHUNK_BYTES,
    Limits,
    ReplyError,
    text_bytes,
)
from hqde_fl.simulations.engines.deployment.superlink_requests import Link
from hqde_fl.simulations.engines.flower_internals import (
    HttpGrid,
    RunNotRunningException,
)

POLL_SECONDS = 0.5
"""Minimum time between two requests for the reply of one node."""
NODES_SECONDS = 2.0
"""Time between two requests for the list of connected nodes."""
SLICE_SECONDS = 2.0
"""Maximum time for which one reply is pulled before the next one gets its turn."""
TTL_SECONDS = 15.0
"""Time for which an instruction stays valid after its round has ended."""

_FLOOR = Limits(max_bytes=16 << 20, max_objects=256)
_RATIO = 4


def guard(grid: Grid) -> Grid:
    """Return a ``GuardedGrid`` around Flower's deployment Grid; any other Grid unchanged."""
    return GuardedGrid(grid) if isinstance(grid, HttpGrid) else grid


@final
class GuardedGrid(WrappedGrid):
    """A deployment Grid on which every round ends by its deadline, whatever the nodes do.

    Any Flower Strategy runs on it unchanged.

    Parameters
    ----------
    grid : HttpGrid
        Flower's Grid.
    limits : Limits, optional
        Limits on the size of a reply. If not given, four times the largest message sent so far, at
        least 16 MiB, 256 objects and 256 KiB of text that describes them.
    wait_for_nodes : float
        Seconds, > 0, after which a Strategy that only asks for nodes gets a ``CohortError``; stock
        Strategies would wait for ever.
    """

    def __init__(
        self, grid: HttpGrid, *, limits: Limits | None = None, wait_for_nodes: float = 3600.0
    ) -> None:
        if wait_for_nodes <= 0:
            raise ConfigError(f"wait_for_nodes must be > 0, found {wait_for_nodes}")
        super().__init__(grid)
        self._http, self._link = grid, Link(grid)
        self._fixed, self._grown = limits, _FLOOR
        self._patience, self._waiting_since = wait_for_nodes, inf

    def get_node_ids(self) -> list[int]:
        """Return the ids of the connected nodes.

        Raises
        ------
        CohortError
            If no ``send_and_receive`` has followed the first such call for ``wait_for_nodes``
            seconds.
        """
        nodes = [node.node_id for node in self.get_nodes()]
        now = time.monotonic()
        self._waiting_since = min(self._waiting_since, now)
        if now - self._waiting_since > self._patience:
            raise CohortError(
                f"not enough nodes connected within wait_for_nodes={self._patience:g} s, "
                f"found {len(nodes)}"
            )
        return nodes

    def get_nodes(self) -> Sequence[NodeInfo]:
        """Return Flower's ``NodeInfo`` of each connected node."""
        return list(self._grid.get_nodes())

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return replies as Flower's own Grid pulls them; only ``send_and_receive`` is guarded."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages and return an iterator over the replies in the order of their arrival.

        The iterator ends ``timeout`` seconds after this call. A malformed or oversized reply
        becomes an error reply of its node, and so does the failure of a node. The messages' time
        to live is lowered to ``timeout`` plus ``TTL_SECONDS``.
        """
        end = time.monotonic() + (inf if timeout is None else timeout)
        self._waiting_since = inf
        sent = list(messages)
        if timeout is not None:
            for message in sent:  # so that a slow node does not work on rounds that have ended
                message.metadata.ttl = min(message.metadata.ttl, timeout + TTL_SECONDS)
        limits = self._limits(sent)
        self._link.max_answer_bytes = limits.max_bytes
        activated = _activated(self.get_nodes())
        taken = self._link.push(sent)
        refused = [m for m, ok in zip(sent, taken, strict=True) if not ok]
        accepted = {m.metadata.message_id: m for m, ok in zip(sent, taken, strict=True) if ok}
        collector = _ReplyCollector(self._link, self._http, accepted, activated, limits)
        collector.start()
        return self._receive(collector, refused, end)

    def close(self) -> None:
        """Disconnect from the SuperLink."""
        self._http.close()

    def _receive(
        self, collector: _ReplyCollector, refused: Sequence[Message], end: float
    ) -> Iterator[Message]:
        try:
            for message in refused:
                yield _failure(message, "the SuperLink did not take the message for it")
            yield from collector.until(end)
        finally:  # the deadline, an interrupt, or a Strategy that stops reading
            collector.stop()

    def _limits(self, sent: Sequence[Message]) -> Limits:
        if self._fixed is not None:
            return self._fixed
        for content in {id(m.content): m.content for m in sent}.values():
            self._grown = raise_limits(self._grown, content)
        return self._grown


@dataclass
class _Upload:
    """A reply whose objects are being pulled.

    ``missing`` are the ids of objects that are still to be pulled; ``size`` is in bytes.
    """

    root: str
    missing: list[str]
    objects: dict[str, bytes] = field(default_factory=dict)
    size: int = 0


class _ReplyCollector(threading.Thread):
    """A daemon thread that collects the replies of one round.

    So a request to the SuperLink that hangs blocks neither the round nor the end of the process.

    Parameters
    ----------
    link : Link
        Requests to the SuperLink.
    grid : HttpGrid
        Lists the connected nodes.
    sent : Mapping[str, Message]
        The messages of the round by their ids.
    activated : Mapping[int, str]
        Node id -> time at which the node connected, from before the messages were sent.
    limits : Limits
        Limits on the size of a reply.
    """

    def __init__(
        self,
        link: Link,
        grid: HttpGrid,
        sent: Mapping[str, Message],
        activated: Mapping[int, str],
        limits: Limits,
    ) -> None:
        super().__init__(daemon=True, name="replies")
        self._link, self._grid, self._limits = link, grid, limits
        self._open, self._activated = dict(sent), activated
        self._uploads: dict[str, _Upload] = {}
        self._results: queue.SimpleQueue[Message | BaseException | None] = queue.SimpleQueue()
        self._over = threading.Event()

    def until(self, end: float) -> Iterator[Message]:
        """Yield replies until every message has one, or ``time.monotonic()`` has reached ``end``.

        An error that ended the thread is raised.
        """
        while True:
            try:
                left = end - time.monotonic()
                result = self._results.get(
                    block=left > 0, timeout=min(max(left, 0), threading.TIMEOUT_MAX)
                )
            except queue.Empty:
                return
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            yield result

    def stop(self) -> None:
        """Tell the thread to end as soon as it can."""
        self._over.set()

    def run(self) -> None:
        """Ask for the missing replies again and again, until there are none or ``stop`` is called.

        Then put None, or the error that ended this, into the queue of results.
        """
        next_list = time.monotonic() + NODES_SECONDS
        try:
            while self._open and not self._over.is_set():
                begun = time.monotonic()
                connected = None
                if begun > next_list:
                    connected = _activated(self._grid.get_nodes())
                    next_list = begun + NODES_SECONDS
                for key in list(self._open):
                    if self._over.is_set():
                        break
                    self._try_to_finish(key, connected)
                self._over.wait(max(POLL_SECONDS, time.monotonic() - begun))
            self._results.put(None)
        except BaseException as error:  # the run was stopped, or the SuperLink is gone
            self._results.put(error)
        finally:
            for upload in self._uploads.values():
                with contextlib.suppress(Exception):
                    self._link.forget(upload.root)

    def _try_to_finish(self, key: str, connected: Mapping[int, str] | None) -> None:
        """Pull more of the reply to the message with id ``key``.

        Once it is complete, put it into the queue of results; if it has failed, an error reply.
        """
        message = self._open[key]
        try:
            content = self._pull(key)
            if content is None:
                self._check_node(key, connected)
                return
            reply = Message(content, reply_to=message)
        except RunNotRunningException:
            raise
        except ReplyError as error:
            reply = _failure(message, str(error))
        except Exception as error:  # for instance of the SuperLink, which could not read it either
            reply = _failure(
                message, f"malformed reply ({type(error).__name__}: {str(error)[:120]})"
            )
        del self._open[key]
        if upload := self._uploads.pop(key, None):
            self._link.forget(upload.root)
        self._results.put(reply)

    def _pull(self, key: str) -> RecordDict | Error | None:
        """Pull objects of the reply to the message with id ``key``, for about ``SLICE_SECONDS``.

        Return the content once all objects are there, None until then. ``ReplyError`` is raised if
        the reply is malformed or too large.
        """
        upload = self._uploads.get(key)
        if upload is None:
            announced = self._link.reply(key)
            if announced is None:
                return None
            upload = self._uploads[key] = _Upload(announced.root, [])
            upload.missing = announced.object_ids(self._limits.max_objects)
        until = time.monotonic() + SLICE_SECONDS
        while upload.missing or self._add_unlisted(upload):
            left = min(self._limits.max_bytes - upload.size, self._limits.object_bytes)
            content = self._link.object(upload.missing[-1], left)
            if content is None or self._over.is_set():
                return None
            upload.size += len(content)
            if upload.size > self._limits.max_bytes:
                raise ReplyError(f"too large: more than {self._limits.max_bytes} bytes")
            upload.objects[upload.missing.pop()] = content
            if time.monotonic() > until and upload.missing:
                return None
        return inflate(upload.root, upload.objects, self._limits)

    def _add_unlisted(self, upload: _Upload) -> bool:
        """Add parts of the objects that the SuperLink did not list; return True if there are any.

        ``ReplyError`` is raised if there are too many.
        """
        children = unlisted_children(upload.objects)
        if len(upload.objects) + len(children) > self._limits.max_objects:
            raise ReplyError(f"too large: more than {self._limits.max_objects} objects")
        upload.missing = children
        return bool(children)

    def _check_node(self, key: str, connected: Mapping[int, str] | None) -> None:
        """Raise ``ReplyError`` if a node disconnected during its upload, or has restarted.

        ``key`` is the id of the message to the node. ``connected`` (None: nothing is checked) was
        listed before the reply was asked for, so a reply that was sent before a restart is not
        lost. The SuperLink itself reports nodes that disconnected without a reply.
        """
        if connected is None:
            return
        node = self._open[key].metadata.dst_node_id
        if node not in connected and key in self._uploads:
            raise ReplyError("went offline while uploading its reply")
        before = self._activated.get(node)
        if node in connected and before is not None and connected[node] != before:
            raise ReplyError("restarted while it was at work")


def _failure(message: Message, reason: str) -> Message:
    """Log a failure and return it as the error reply to a message."""
    log(WARNING, "node %d: %s", message.metadata.dst_node_id, reason)
    return Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, reason), reply_to=message)


def _activated(nodes: Iterable[NodeInfo]) -> dict[int, str]:
    """Return the time at which each node connected, by node id."""
    return {node.node_id: node.last_activated_at for node in nodes}


def raise_limits(limits: Limits, content: RecordDict) -> Limits:
    """Return a copy of the limits in which those on bytes, objects and text are raised.

    Each is at least four times what a message with this content needs.
    """
    return replace(
        limits,
        max_bytes=max(limits.max_bytes, _RATIO * message_bytes(content)),
        max_objects=max(limits.max_objects, _RATIO * _objects(content)),
        max_text_bytes=max(limits.text_bytes, _RATIO * text_bytes(content)),
    )


def _objects(content: RecordDict) -> int:
    """Return an upper bound of the number of objects in which a message is sent."""
    arrays = [a for r in content.values() if isinstance(r, ArrayRecord) for a in r.values()]
    return 2 + len(content) + sum(2 + len(array.data) // CHUNK_BYTES for array in arrays)
