"""Match replies to the messages that they answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Message

from hqde_fl.protocol.replies import read_once


class ReplyMatcher:
    """Finds the node that a reply comes from by the message that it answers.

    A node writes the metadata of its reply itself, so it can sign with any node id. It cannot know
    the id of a message to another node: a reply belongs to the node whose message it answers.

    Parameters
    ----------
    messages : Sequence[Message]
        The messages. Grids give them their ids when they send them, at the latest when the first
        reply is there.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self._by_node = {message.metadata.dst_node_id: message for message in messages}
        self._by_id: dict[str, Message] = {}

    def source(self, reply: Message) -> int | None:
        """Return the id of the node that sent a reply; None if it answers none of the messages."""
        if not self._by_id:
            self._by_id = {message.metadata.message_id: message for message in self._messages}
        message = self._by_id.get(reply.metadata.reply_to_message_id)
        return None if message is None else message.metadata.dst_node_id

    def envelope_error(self, reply: Message, node: int) -> str | None:
        """Return what is wrong with the metadata of a node's reply; None if it is in order.

        Only for replies with a content, and one message to each node: Flower itself writes the
        error replies of dead nodes.
        """
        signed, message = reply.metadata, self._by_node[node].metadata
        if signed.src_node_id != node:
            return f"signed by node {signed.src_node_id}"
        if signed.run_id != message.run_id:
            return f"belongs to run {signed.run_id}"
        if signed.group_id != message.group_id:
            return f"belongs to round {signed.group_id[:40]!r}"
        if signed.message_type != message.message_type:
            return f"answers {signed.message_type[:40]!r}"
        return None


def with_nodes(
    sent: Sequence[Message], replies: Iterable[Message]
) -> Iterator[tuple[int | None, Message]]:
    """Yield (node id, reply) for each reply: the node to which the answered message was sent.

    The node id is None if a reply answers none of the messages in ``sent``.
    """
    matcher = ReplyMatcher(sent)
    for reply in read_once(replies):
        yield matcher.source(reply), reply
