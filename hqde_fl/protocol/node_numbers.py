"""The partition that the server gives to a node whose own config names none.

It is sent with every message to the node, as a record of its own, which the client takes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import ConfigRecord, Context, Message, RecordDict

NUMBER = "hqde.number"
"""Name of the record with a node's partition."""
_KEYS = ("partition-id", "num-partitions")


def with_number(content: RecordDict, number: int, count: int) -> RecordDict:
    """Return a message's content with the partition of its node, one of ``count``."""
    record = ConfigRecord(dict(zip(_KEYS, (number, count), strict=True)))
    return RecordDict({**content, NUMBER: record})


@contextmanager
def numbered(message: Message, context: Context) -> Iterator[None]:
    """Let a node's config hold the partition that a message gives it, in the block.

    The record is taken out of the message. The node's own config counts, if it names a partition.
    """
    record = message.content.config_records.get(NUMBER) if message.has_content() else None
    if record is None:
        yield
        return
    del message.content[NUMBER]
    own = context.node_config
    given = {key: record[key] for key in _KEYS if isinstance(record.get(key), int)}
    context.node_config = {**given, **own}  # type: ignore[dict-item]
    try:
        yield
    finally:  # it is kept with the client's state, and the next message may say otherwise
        context.node_config = own


def names_partition(context: Context) -> bool:
    """Return True if a node's config names its partition."""
    return any(key in context.node_config for key in _KEYS)
