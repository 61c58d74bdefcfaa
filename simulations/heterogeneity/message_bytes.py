"""The bytes of messages that take virtual time: those of a model's arrays.

Not counted are config and metrics, a few hundred bytes that differ between engines and that a
client can write as it likes, and frozen entries, which a client has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from flwr.app import ArrayRecord, Message, RecordDict

from hqde_fl.clients.message_fields import server_round
from hqde_fl.protocol.members import requested_members
from hqde_fl.protocol.message_size import OTHER, bytes_by_role, message_bytes
from hqde_fl.strategies.state import ModelState


def array_bytes(message: Message) -> int:
    """Return the size in bytes of all arrays in a message; 0 in an error reply."""
    if not message.has_content():
        return 0
    records = message.content.items()
    return message_bytes({k: record for k, record in records if isinstance(record, ArrayRecord)})


@final
class SentBytes:
    """Computes the bytes of training messages from the server's models.

    A message may lack entries that its node has said it holds, which no node does that has just
    been started, as after a resume, or that has no folder to keep them. What is counted is what a
    node needs that holds frozen entries alone: the same on every engine and after a resume.

    Parameters
    ----------
    model : Callable[[int], ModelState]
        (member) -> the server's model, with what it sends to clients in the present round.
    """

    def __init__(self, model: Callable[[int], ModelState]) -> None:
        self._model = model
        self._round = 0
        self._known: dict[tuple[int, int], int] = {}

    def __call__(self, message: Message) -> int:
        """Return the bytes of a training message that has not been answered yet."""
        if (number := server_round(message)) != self._round:
            self._round, self._known = number, {}
        members, node = requested_members(message), message.metadata.dst_node_id
        return sum(self._of_member(member, node) for member in members or (0,))

    def _of_member(self, member: int, node: int) -> int:
        model = self._model(member)
        broadcast = model.broadcast
        behind = 0 if broadcast is None else broadcast.payloads_behind(node)
        key = member, behind
        if key not in self._known:
            arrays = model.record if broadcast is None else broadcast.content(behind)[0]
            sizes = bytes_by_role(RecordDict({"arrays": arrays}), [model.layout])
            self._known[key] = sum(sizes.values()) - sizes["frozen"] - sizes[OTHER]
        return self._known[key]
