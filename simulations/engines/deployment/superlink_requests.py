"""Single requests to the SuperLink, through the private client of Flower's deployment Grid.

``HttpGrid.pull_messages`` blocks until every object of a reply has arrived, so a node that never
finishes its upload can block it. The single requests that it consists of have no public names. No
other module uses private attributes of ``HttpGrid``;
``tests/deployment/test_superlink_requests.py`` pins them.
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
)

_ENVELOPE_BYTES = 1 << 16  # of a response, besides the object in it


@final
class Link:
    """Sends single requests to the SuperLink, with a limit on the size of each response.

    Parameters
    ----------
    grid : HttpGrid
        Flower's Grid; it need not be connected.
    """

    def __init__(self, grid: HttpGrid) -> None:
        self.max_answer_bytes = 16 << 20
        """Maximum size of a response that lists the objects of replies."""
        self._grid = grid
        self._client = grid._runtime_client
        self._allowed = threading.local()  # a request of an earlier round may still be waiting
        http = self._client._client
        http.headers["accept-encoding"] = "identity"  # so that content-length is the true size
        hooks = http.event_hooks
        hooks["response"] = [*hooks["response"], self._check_size]
        http.event_hooks = hooks

    def push(self, messages: Sequence[Message]) -> list[bool]:
        """Send messages; return True for each that the SuperLink accepted, else False, in order."""
        ids = list(self._grid.push_messages(messages))
        return [bool(key) for key in ids] or [False] * len(messages)

    def reply(self, message_id: str) -> Announced | None:
        """Return the announced reply to a message; None if there is none yet.

        The SuperLink lists a reply only once, and along with it any messages that SuperNodes have
        addressed to the ServerApp unasked; those are deleted. Messages and object trees are not
        parsed, because as Python objects they may take a hundred times as much memory.

        Raises
        ------
        ReplyError
            If the response is larger than ``max_answer_bytes`` plus 64 KiB.
        """
        call: Any = self._client._unary_unary
        self._allowed.bytes = self.max_answer_bytes + _ENVELOPE_BYTES
        try:
            answer: Announcements = call(
                path="/v1/runtime/pull-messages",
                rpc_method="/flwr.proto.Runtime/PullMessages",
                request=PullAppMessagesRequest(message_ids=[message_id]),
                response_type=Announcements,
            )
        finally:
            self._allowed.bytes = None
        reply = None
        for announced in answer.messages:
            if announced.answers == message_id and reply is None:
                reply = announced
            elif announced.root:
                self.forget(announced.root)
        return reply

    def object(self, object_id: str, max_bytes: int) -> bytes | None:
        """Return the bytes of an object; None if it has not been uploaded yet.

        Raises
        ------
        ReplyError
            If the response is larger than ``max_bytes`` plus 64 KiB, or the SuperLink no longer
            expects the object.
        """
        self._allowed.bytes = max_bytes + _ENVELOPE_BYTES
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
        """Ask the SuperLink to delete the objects of a reply."""
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=self._grid.run.run_id, message_object_id=message_id
            )
        )

    def _check_size(self, response: httpx.Response) -> None:
        """Raise ``ReplyError`` if a response exceeds the limit of its request, if it has one.

        The body of the response has not been read by then.
        """
        allowed = getattr(self._allowed, "bytes", None)
        length = int(response.headers.get("content-length", 0))
        if allowed is not None and length > allowed:
            raise ReplyError(f"too large: an object of {length} bytes")
