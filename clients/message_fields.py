"""The fields that a client reads from a Flower message and from its node's configuration."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MessageType

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.control_variates import CONTROL
from hqde_fl.protocol.members import config_value, records_of


def is_training(message: Message) -> bool:
    """Return True if a message asks the client to train (``train`` or ``train.<action>``)."""
    return message.metadata.message_type.partition(".")[0] == MessageType.TRAIN


def server_round(message: Message) -> int:
    """Return the server's round from a message's config records; 0 if they do not hold it."""
    return config_value(message, "server-round", int) or 0


def array_record(message: Message) -> tuple[str, ArrayRecord]:
    """Return the name and the content of a message's only ``ArrayRecord`` but control variates.

    Raises
    ------
    ConfigError
        If the message has none, or several.
    """
    found = records_of(message.content, ArrayRecord).items()
    records = [(name, record) for name, record in found if name != CONTROL]
    if len(records) != 1:
        raise ConfigError(f"a message needs exactly 1 ArrayRecord, found {len(records)}")
    return records[0]


def partition_of(context: Context) -> tuple[int, int]:
    """Return the node's partition id and the number of partitions, from its configuration.

    Raises
    ------
    ConfigError
        If the configuration lacks one of them, or if the id is outside [0, number).
    """
    config = context.node_config
    number, count = config.get("partition-id"), config.get("num-partitions")
    if not isinstance(number, int) or not isinstance(count, int):
        raise ConfigError(
            "the node's config needs the integers partition-id and num-partitions, found "
            f"{number!r} and {count!r}; start a SuperNode with "
            '--node-config "partition-id=0 num-partitions=2", or let the server of hqde-fl number '
            "the nodes"
        )
    if not 0 <= number < count:
        raise ConfigError(f"partition-id must be in [0, {count}), found {number}")
    return number, count
