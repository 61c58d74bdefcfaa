"""The number of a client's examples, which a simulation asks for before the client trains.

It is not the ``num-examples`` of a reply to a training message: a faulty client can claim any
number there, and one that drops out gives no such reply.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, Message, RecordDict

EXAMPLES = "query.examples"
"""Type of the message that asks a client for the number of its examples."""

COUNT = "examples"
"""Name of the reply's ConfigRecord, and its key with the number."""


def examples_question(node: int) -> Message:
    """Return the message that asks a node for the number of its examples."""
    return Message(RecordDict({"config": ConfigRecord()}), node, EXAMPLES)


def examples_answer(message: Message, examples: int) -> Message:
    """Return the reply to such a message."""
    return Message(RecordDict({COUNT: ConfigRecord({COUNT: examples})}), reply_to=message)


def counted_examples(reply: Message) -> int | None:
    """Return the number in a reply; None if it has none, as the error reply of a stock client."""
    if not reply.has_content():
        return None
    count = reply.content.config_records.get(COUNT, ConfigRecord()).get(COUNT)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        return None
    return count
