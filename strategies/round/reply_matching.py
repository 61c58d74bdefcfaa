"""Who was asked something, and whose answer a reply is."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Message


class Asked:
    """The messages of one round, by which replies are known.

    A node writes its reply's metadata by itself, so it can sign with any node id. What it cannot
    know is the id of a message to another node: a reply is of the node whose message it answers.

    Parameters
    ----------
    sent : Sequence[Message]
        The messages, one for each node. Grids give them their ids when they send them.
    """

    def __init__(self, sent: Sequence[Message]) -> None:
        self._by_node = {message.metadata.dst_node_id: message for message in sent}
        self._by_id: dict[str, Message] = {}

    def source(self, reply: Message) -> int | None:
        """The node that a reply comes from; None if it answers none of the messages."""
        if not self._by_id:
            messages = self._by_node.values()
            self._by_id = {message.metadata.message_id: message for message in messages}
        message = self._by_id.get(reply.metadata.reply_to_message_id)
        return None if message is None else message.metadata.dst_node_id

    def forged(self, reply: Message, node: int) -> str | None:
        """What is wrong with the envelope of a reply with a content; None if it is in order.

        Error replies are not looked at: the ones for dead nodes are written by Flower.
        """
        found, asked = reply.metadata, self._by_node[node].metadata
        if found.src_node_id != node:
            return f"signed by node {found.src_node_id}"
        if found.run_id != asked.run_id:
            return f"belongs to run {found.run_id}"
        if found.group_id != asked.group_id:
            return f"belongs to round {found.group_id[:40]!r}"
        if found.message_type != asked.message_type:
            return f"answers {found.message_type[:40]!r}"
        return None
