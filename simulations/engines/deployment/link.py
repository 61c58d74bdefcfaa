"""The one place that reaches into Flower's deployment Grid.

``HttpGrid.pull_messages`` blocks until every object of a reply has arrived, which is in the hands
of who sends it. What it is made of, one question to the SuperLink at a time, has no public name.
``tests/deployment/test_link.py`` pins every name used here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, final

import httpx
from flwr.app import Message

from hqde_fl.simulations.engines.deployment.announcements import Announced, Announcements
from hqde_fl.simulations.engines.deployment.limits import ReplyError
from hqde_fl.simulations.engines.flower_internals import (
    ConfirmMessageReceivedRequest,
    HttpGrid,
    PullAppMessagesRequest,
    PullObjectRequest,
    RunNotRunningException,
)

__all__ = ["HttpGrid", "Link", "RunNotRunningException"]

_SLACK = 1 << 16  # bytes of a response around the object it carries


@final
class Link:
    """Single questions to the SuperLink.

    Parameters
    ----------
    grid : HttpGrid
        Flower's Grid, connected or not.
    """

    def __init__(self, grid: HttpGrid) -> None:
        self.largest_answer = 16 << 20
        """Bytes that an answer may have which says what replies consist of."""
        self._grid = grid
        self._client = grid._runtime_client
        self._allowed = threading.local()  # a call of a round that is over may still hang
        http = self._client._client
        http.headers["accept-encoding"] = "identity"  # or a length says nothing of what it becomes
        hooks = http.event_hooks
        hooks["response"] = [*hooks["response"], self._look]
        http.event_hooks = hooks

    def push(self, messages: Sequence[Message]) -> list[bool]:
        """Send messages; which of them the SuperLink took."""
        ids = list(self._grid.push_messages(messages))
        return [bool(key) for key in ids] or [False] * len(messages)

    def reply(self, message_id: str) -> Announced | None:
        """The reply to a message, if there is one: its id, and which objects it consists of.

        The SuperLink hands out a reply once, and with it whatever SuperNodes addressed to the
        ServerApp of their own accord. Neither is parsed here: a message and its tree of objects
        may weigh a hundred times as much as Python objects.

        Raises
        ------
        ReplyError
            If the answer is larger than ``largest_answer``.
        """
        call: Any = self._client._unary_unary
        self._allowed.bytes = self.largest_answer + _SLACK
        try:
            answer: Announcements = call(
                path="/v1/runtime/pull-messages",
                rpc_method="/flwr.proto.Runtime/PullMessages",
                request=PullAppMessagesRequest(message_ids=[message_id]),
                response_type=Announcements,
            )
        finally:
            self._allowed.bytes = None
        found = None
        for announced in answer.messages:
            if announced.answers == message_id and found is None:
                found = announced
            elif announced.root:  # a SuperNode can address instructions of its own to the ServerApp
                self.forget(announced.root)
        return found

    def object(self, object_id: str, largest: int) -> bytes | None:
        """One object; None if it has not been uploaded yet.

        Raises
        ------
        ReplyError
            If it is larger than ``largest`` bytes, or will never come.
        """
        self._allowed.bytes = largest + _SLACK
        try:
            answer = self._client.PullObject(
                PullObjectRequest(
                    node=self._grid.node, run_id=self._grid.run.run_id, object_id=object_id
                )
            )
        finally:
            self._allowed.bytes = None
        if not answer.object_found:
            raise ReplyError("its upload was not completed")
        return bytes(answer.object_content) if answer.object_available else None

    def forget(self, message_id: str) -> None:
        """Have the SuperLink delete what it holds of a reply."""
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=self._grid.run.run_id, message_object_id=message_id
            )
        )

    def _look(self, response: httpx.Response) -> None:
        """Called with every response before its body is read."""
        allowed = getattr(self._allowed, "bytes", None)
        length = int(response.headers.get("content-length", 0))
        if allowed is not None and length > allowed:
            raise ReplyError(f"too large: an object of {length} bytes")
