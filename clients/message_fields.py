"""What a client reads from a Flower message and from its node."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MessageType

from hqde_fl.errors import ConfigError


def is_training(message: Message) -> bool:
    """Whether the message asks the client to train (``train`` or ``train.<action>``)."""
    return message.metadata.message_type.partition(".")[0] == MessageType.TRAIN


def server_round(message: Message) -> int:
    """The server's round, 0 if the message does not say."""
    for record in message.content.config_records.values():
        value = record.get("server-round")
        if isinstance(value, int):
            return value
    return 0


def array_record(message: Message) -> tuple[str, ArrayRecord]:
    """The message's one ``ArrayRecord`` and its name.

    Raises
    ------
    ConfigError
        If there is none, or several.
    """
    found = list(message.content.array_records.items())
    if len(found) != 1:
        raise ConfigError(f"a message needs exactly 1 ArrayRecord, found {len(found)}")
    return found[0]


def partition_of(context: Context) -> tuple[int, int]:
    """The node's partition id and the number of partitions.

    Raises
    ------
    ConfigError
        If the node was not told, or if the id is outside [0, number).
    """
    config = context.node_config
    number, count = config.get("partition-id"), config.get("num-partitions")
    if not isinstance(number, int) or not isinstance(count, int):
        raise ConfigError(
            "the node's config needs the integers partition-id and num-partitions, found "
            f"{number!r} and {count!r}; start a SuperNode with "
            '--node-config "partition-id=0 num-partitions=2"'
        )
    if not 0 <= number < count:
        raise ConfigError(f"partition-id must be in [0, {count}), found {number}")
    return number, count
