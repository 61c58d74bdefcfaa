"""The members of an ensemble in one message or state dict: ``member-<i>/<name>``.

A single model travels under its own names, so that stock clients can train it. A training message
for some of several members lists them in its config, with a tag for each that the client sends
back with the member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.flower_internals import make_message

MEMBERS = "members"
"""Key of a training message's config: the members that the client is to train."""
TAG = "tag"
"""Key, below a member's name, of the number that the client sends back with the member."""
TAGS = "hqde.members"
"""Name of the reply's ConfigRecord with the members' tags."""

V = TypeVar("V")
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


def member_name(member: int) -> str:
    """Return ``member-<i>``, the name of member i in messages, records and notes."""
    return f"member-{member}"


def add_member_prefix(member: int, values: Mapping[str, V]) -> dict[str, V]:
    """Return values under ``member-<i>/<name>`` instead of ``<name>``."""
    return {f"{member_name(member)}/{name}": value for name, value in values.items()}


def select_member(member: int, values: Mapping[str, V]) -> dict[str, V]:
    """Return one member's values among those of several, under the model's own names."""
    prefix = f"{member_name(member)}/"
    return {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}


def join_members(states: Sequence[Mapping[str, V]]) -> dict[str, V]:
    """Return the values of all members in one dict; a single member keeps the model's names."""
    if len(states) == 1:
        return dict(states[0])
    joined: dict[str, V] = {}
    for member, state in enumerate(states):
        joined |= add_member_prefix(member, state)
    return joined


def split_members(state: Mapping[str, V], members: int) -> list[dict[str, V]]:
    """Return each member's values; the inverse of ``join_members``.

    Parameters
    ----------
    state : Mapping[str, V]
        The values of all members.
    members : int
        The number of members, >= 1.

    Raises
    ------
    ConfigError
        If ``members`` < 1, or the state is not that of as many members.
    """
    if members < 1:
        raise ConfigError(f"members must be >= 1, found {members}")
    if members == 1:
        return [dict(state)]
    states: dict[str, dict[str, V]] = {member_name(member): {} for member in range(members)}
    need = (
        f"an ensemble of {members} members needs arrays named member-0/... to "
        f"member-{members - 1}/..."
    )
    for key, value in state.items():
        prefix, _, name = key.partition("/")
        if prefix not in states or not name:
            raise ConfigError(f"{need}, found {key!r}")
        states[prefix][name] = value
    for prefix, member_state in states.items():
        if not member_state:
            raise ConfigError(f"{need}, found no {prefix}/...")
    return list(states.values())


def uncopied_record(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return a record of the same arrays; Flower's constructor would copy them."""
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array
    return record


def records_of(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """Return the records of one kind in a content by name; changes of the result change nothing.

    Flower's properties, such as ``config_records``, build a dict that checks every entry.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def model_arrays(record: ArrayRecord, member: int | None) -> Mapping[str, Array]:
    """Return one model's arrays in a record: a member's, or all if ``member`` is None."""
    return record if member is None else select_member(member, record)


def replace_model(
    record: ArrayRecord, member: int | None, arrays: Mapping[str, Array]
) -> ArrayRecord:
    """Return a new record with a member's arrays replaced, or all arrays if ``member`` is None."""
    if member is None:
        return uncopied_record(arrays)
    prefix = f"{member_name(member)}/"
    others = {name: array for name, array in record.items() if not name.startswith(prefix)}
    return uncopied_record(others | add_member_prefix(member, arrays))


def message_config(message: Message) -> ConfigRecord:
    """Return a message's first ConfigRecord; an empty one if it has none."""
    return next(iter(records_of(message.content, ConfigRecord).values()), ConfigRecord())


def config_value(message: Message, key: str, kind: type[V]) -> V | None:
    """Return the value of a key in the first ConfigRecord where it has the type; None if none."""
    for config in records_of(message.content, ConfigRecord).values():
        if isinstance(value := config.get(key), kind):
            return value
    return None


def requested_members(message: Message) -> tuple[int, ...] | None:
    """Return the members that a training message lists; None if it lists none."""
    listed = config_value(message, MEMBERS, list)
    return None if listed is None else tuple(int(member) for member in listed)


def select_member_reply(member: int, reply: Message, key: str) -> Message:
    """Return a copy of a reply with one member's arrays only, under the model's own names.

    Parameters
    ----------
    member : int
        The member.
    reply : Message
        A reply with several members' arrays.
    key : str
        The name of its ``ArrayRecord``.
    """
    content = RecordDict(dict(reply.content))
    content[key] = uncopied_record(select_member(member, reply.content.array_records[key]))
    return make_message(reply.metadata, content=content)
