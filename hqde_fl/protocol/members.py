"""The members of an ensemble in one message: ``member-<i>/<name>``.

One member travels under the model's own names, so that stock clients can take its place. A message
with some of several members says so in its config: which members they are, and for each a tag that
comes back with what was made of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

MEMBERS = "members"
"""Key of a training message's config: the members that the client is to train."""
TAG = "tag"
"""Key, below a member's name, of what the client sends back with the member."""
TAGS = "hqde.members"
"""Name of the reply's ConfigRecord with the members' tags."""

V = TypeVar("V")


def member_name(member: int) -> str:
    """What a member is called in messages, records and notes."""
    return f"member-{member}"


def named(member: int, values: Mapping[str, V]) -> dict[str, V]:
    """A member's values under the names that they travel by."""
    return {f"{member_name(member)}/{name}": value for name, value in values.items()}


def of_member(member: int, values: Mapping[str, V]) -> dict[str, V]:
    """The inverse of ``named``, for one member among others."""
    prefix = f"{member_name(member)}/"
    return {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}


def record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """The same arrays as a record; its constructor would copy them."""
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array
    return record


def config_of(message: Message) -> ConfigRecord:
    """The config of a message; an empty one if it has none."""
    return next(iter(message.content.config_records.values()), ConfigRecord())


def members_of(message: Message) -> tuple[int, ...] | None:
    """The members that a training message is about; None if it does not tell members apart."""
    for config in message.content.config_records.values():
        listed = config.get(MEMBERS)
        if isinstance(listed, list):
            return tuple(int(member) for member in listed)
    return None


def reply_of(member: int, reply: Message, key: str) -> Message:
    """A reply with one member's arrays only, under the model's own names."""
    single = copy.copy(reply)
    single.content = RecordDict(dict(reply.content))
    single.content[key] = record_of(of_member(member, reply.content.array_records[key]))
    return single
