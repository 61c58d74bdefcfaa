"""Flower's deployment Grid, made to survive what SuperNodes send and how they die.

The stock Grid asks for all replies at once and waits for each until its last byte is there, so one
SuperNode that stalls holds the round, and one malformed upload ends the run inside the Grid, before
any Strategy sees it. Here every reply is asked for by itself, in small steps, in a thread of the
round's own; whatever goes wrong with it is an error reply of the node that was asked.
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
from hqde_fl.protocol.flower_internals import ErrorCode, log
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.simulations.engines.deployment.inflate import inflate
from hqde_fl.simulations.engines.deployment.limits import (
    CHUNK_BYTES,
    Limits,
    ReplyError,
    text_bytes,
)
from hqde_fl.simulations.engines.deployment.link import HttpGrid, Link, RunNotRunningException
from hqde_fl.simulations.engines.flower_internals import NodeInfo
from hqde_fl.simulations.engines.wrapped_grid import WrappedGrid

POLL_SECONDS = 0.5
"""How often a node that has not answered is asked for, at most."""
NODES_SECONDS = 2.0
"""How often the SuperLink is asked which nodes are there."""
SLICE_SECONDS = 2.0
"""How long one reply is worked on while others wait."""
TTL_SECONDS = 15.0
"""How much longer than its round an instruction is valid."""

_FLOOR = Limits(max_bytes=16 << 20, max_objects=256)
_RATIO = 4


def guard(grid: Grid) -> Grid:
    """The Grid itself, guarded if it is Flower's own for deployments."""
    return GuardedGrid(grid) if isinstance(grid, HttpGrid) else grid


@final
class GuardedGrid(WrappedGrid):
    """A deployment Grid on which a round ends when its deadline says so, whatever nodes do.

    Any Flower Strategy runs on it unchanged.

    Parameters
    ----------
    grid : HttpGrid
        Flower's Grid.
    limits : Limits, optional
        What a reply may weigh. If not given, four times the largest message sent so far, at least
        16 MiB, 256 objects and 256 KiB of text that describes them.
    wait_for_nodes : float
        Seconds after which a Strategy that does nothing but ask for nodes gets a ``CohortError``;
        stock Strategies would wait for ever.
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
        """The nodes that are there.

        Raises
        ------
        CohortError
            If nothing else has been asked for ``wait_for_nodes`` seconds.
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
        """The nodes that are there, and what is known of them."""
        return list(self._grid.get_nodes())

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies as Flower's own Grid pulls them, unguarded: use ``send_and_receive``."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages; the replies as they come.

        After ``timeout`` seconds on a monotonic clock, counted from here, there are no more. What
        is wrong with a reply, or with the node that owes it, is an error reply of that node.
        """
        end = time.monotonic() + (inf if timeout is None else timeout)
        self._waiting_since = inf
        sent = list(messages)
        if timeout is not None:
            for message in sent:  # so that a slow node does not work through rounds that are over
                message.metadata.ttl = min(message.metadata.ttl, timeout + TTL_SECONDS)
        limits = self._limits(sent)
        self._link.largest_answer = limits.max_bytes
        activated = _activated(self.get_nodes())
        taken = self._link.push(sent)
        refused = [m for m, ok in zip(sent, taken, strict=True) if not ok]
        asked = {m.metadata.message_id: m for m, ok in zip(sent, taken, strict=True) if ok}
        collection = _Collection(self._link, self._http, asked, activated, limits)
        collection.start()
        return self._receive(collection, refused, end)

    def close(self) -> None:
        """Disconnect."""
        self._http.close()

    def _receive(
        self, collection: _Collection, refused: Sequence[Message], end: float
    ) -> Iterator[Message]:
        try:
            for message in refused:
                yield _failure(message, "the SuperLink did not take the message for it")
            yield from collection.until(end)
        finally:  # the deadline, an interrupt, or a Strategy that has seen enough
            collection.stop()

    def _limits(self, sent: Sequence[Message]) -> Limits:
        if self._fixed is not None:
            return self._fixed
        for content in {id(m.content): m.content for m in sent}.values():
            self._grown = grown(self._grown, content)
        return self._grown


@dataclass
class _Upload:
    """A reply that is being uploaded."""

    root: str
    missing: list[str]
    objects: dict[str, bytes] = field(default_factory=dict)
    size: int = 0


class _Collection(threading.Thread):
    """Collects the replies of one round.

    A daemon in a thread of its own: a call to the SuperLink that hangs holds neither the round nor
    the end of the process.
    """

    def __init__(
        self,
        link: Link,
        grid: HttpGrid,
        asked: Mapping[str, Message],
        activated: Mapping[int, str],
        limits: Limits,
    ) -> None:
        super().__init__(daemon=True, name="replies")
        self._link, self._grid, self._limits = link, grid, limits
        self._open, self._activated = dict(asked), activated
        self._uploads: dict[str, _Upload] = {}
        self._found: queue.SimpleQueue[Message | BaseException | None] = queue.SimpleQueue()
        self._over = threading.Event()

    def until(self, end: float) -> Iterator[Message]:
        """The replies until all are there or the time is over; then those found by that time."""
        while True:
            try:
                left = end - time.monotonic()
                found = self._found.get(
                    block=left > 0, timeout=min(max(left, 0), threading.TIMEOUT_MAX)
                )
            except queue.Empty:
                return
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def stop(self) -> None:
        """Have it end as soon as it can."""
        self._over.set()

    def run(self) -> None:
        """Sweep over the open messages until there are none."""
        look = time.monotonic() + NODES_SECONDS
        try:
            while self._open and not self._over.is_set():
                begun = time.monotonic()
                there = None
                if begun > look:
                    there, look = _activated(self._grid.get_nodes()), begun + NODES_SECONDS
                for key in list(self._open):
                    if self._over.is_set():
                        break
                    self._settle(key, there)
                self._over.wait(max(POLL_SECONDS, time.monotonic() - begun))
            self._found.put(None)
        except BaseException as error:  # the run was stopped, or the SuperLink is gone
            self._found.put(error)
        finally:
            for upload in self._uploads.values():
                with contextlib.suppress(Exception):
                    self._link.forget(upload.root)

    def _settle(self, key: str, there: Mapping[int, str] | None) -> None:
        """Advance one reply; put it, or what is wrong with it, where the round finds it."""
        asked = self._open[key]
        try:
            content = self._advance(key)
            if content is None:
                self._check(key, there)
                return
            reply = Message(content, reply_to=asked)
        except RunNotRunningException:
            raise
        except ReplyError as error:
            reply = _failure(asked, str(error))
        except Exception as error:  # the SuperLink could not make sense of it either
            reply = _failure(asked, f"malformed reply ({type(error).__name__}: {str(error)[:120]})")
        del self._open[key]
        if upload := self._uploads.pop(key, None):
            self._link.forget(upload.root)
        self._found.put(reply)

    def _advance(self, key: str) -> RecordDict | Error | None:
        """Pull what is there of one reply, for a while; its content once all of it is."""
        upload = self._uploads.get(key)
        if upload is None:
            announced = self._link.reply(key)
            if announced is None:
                return None
            upload = self._uploads[key] = _Upload(announced.root, [])
            upload.missing = announced.object_ids(self._limits.max_objects)
        until = time.monotonic() + SLICE_SECONDS
        while upload.missing:
            left = min(self._limits.max_bytes - upload.size, self._limits.object_bytes)
            found = self._link.object(upload.missing[-1], left)
            if found is None or self._over.is_set():
                return None
            upload.size += len(found)
            if upload.size > self._limits.max_bytes:
                raise ReplyError(f"too large: more than {self._limits.max_bytes} bytes")
            upload.objects[upload.missing.pop()] = found
            if time.monotonic() > until and upload.missing:
                return None
        return inflate(upload.root, upload.objects, self._limits)

    def _check(self, key: str, there: Mapping[int, str] | None) -> None:
        """Give up a node that went away in the middle of an upload, or came back without memory.

        ``there`` was asked before the reply was looked for: a reply handed in before a restart has
        been found by now. Nodes that are away and have handed in nothing the SuperLink reports.
        """
        if there is None:
            return
        node = self._open[key].metadata.dst_node_id
        if node not in there and key in self._uploads:
            raise ReplyError("went offline while uploading its reply")
        before = self._activated.get(node)
        if node in there and before is not None and there[node] != before:
            raise ReplyError("restarted while it was at work")


def _failure(asked: Message, reason: str) -> Message:
    log(WARNING, "node %d: %s", asked.metadata.dst_node_id, reason)
    return Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, reason), reply_to=asked)


def _activated(nodes: Iterable[NodeInfo]) -> dict[int, str]:
    """When each node came online."""
    return {node.node_id: node.last_activated_at for node in nodes}


def grown(limits: Limits, content: RecordDict) -> Limits:
    """Limits for replies to a message as well: four times what it is."""
    return replace(
        limits,
        max_bytes=max(limits.max_bytes, _RATIO * message_bytes(content)),
        max_objects=max(limits.max_objects, _RATIO * _objects(content)),
        max_text_bytes=max(limits.text_bytes, _RATIO * text_bytes(content)),
    )


def _objects(content: RecordDict) -> int:
    """How many objects a message is moved as, at most."""
    arrays = [a for r in content.values() if isinstance(r, ArrayRecord) for a in r.values()]
    return 2 + len(content) + sum(2 + len(array.data) // CHUNK_BYTES for array in arrays)
