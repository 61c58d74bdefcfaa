"""Downlink: models that arrive as differences from an earlier version."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.message_fields import array_record, is_training
from hqde_fl.protocol.delta_broadcast import (
    BASE,
    CHECKSUM,
    HELD,
    NONE,
    VERSION,
    checksum,
    from_differences,
)
from hqde_fl.protocol.members import config_of, member_name, members_of, named, of_member, record_of

MODEL = "hqde.model"
"""Name in the client's state of the model that came last; of a member's with the member's name."""


@final
@dataclass(frozen=True)
class DownlinkMod:
    """A Flower mod that reconstructs models which the server sends as differences.

    It has to be the outermost: what is inside sees full models only. The last model, or the last of
    each member, is kept in ``Context.state``. A client that does not have what the differences
    start from, or whose checksum is wrong, says so instead of training; the server then sends the
    model in full.
    """

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Reconstruct the model, train, and say which version this client holds."""
        if not is_training(message):
            return call_next(message, context)
        config, members = config_of(message), members_of(message)
        if members is None:
            return self._whole(message, config, context, call_next)
        if not any(VERSION in of_member(member, config) for member in members):
            return call_next(message, context)
        name, record = array_record(message)
        models: dict[str, Array] = {}
        held = ConfigRecord()
        for member in members:
            part, about = record_of(of_member(member, record)), of_member(member, config)
            suffix = f".{member_name(member)}"
            model = _followed(part, about, context, suffix)
            held.update(named(member, {"version": NONE if model is None else about[VERSION]}))
            if model is not None:
                models |= named(member, model)
        if NONE in held.values():
            return Message(RecordDict({HELD: held}), reply_to=message)
        return _trained(message, name, record_of(models), held, context, call_next)

    def _whole(
        self,
        message: Message,
        config: ConfigRecord,
        context: Context,
        call_next: ClientAppCallable,
    ) -> Message:
        if not isinstance(version := config.get(VERSION), int):
            return call_next(message, context)
        name, record = array_record(message)
        model = _followed(record, config, context)
        if model is None:
            return Message(RecordDict({HELD: ConfigRecord({"version": NONE})}), reply_to=message)
        held = ConfigRecord({"version": version})
        return _trained(message, name, model, held, context, call_next)


def _trained(
    message: Message,
    name: str,
    model: ArrayRecord,
    held: ConfigRecord,
    context: Context,
    call_next: ClientAppCallable,
) -> Message:
    """The reply to the message with a full model in it, and which versions are held."""
    full = copy.copy(message)
    full.content = RecordDict(dict(message.content))
    full.content[name] = model
    reply = call_next(full, context)
    if reply.has_error():
        return reply
    return Message(RecordDict({**reply.content, HELD: held}), reply_to=message)


def _followed(
    record: ArrayRecord, config: Mapping[str, Any], context: Context, suffix: str = ""
) -> ArrayRecord | None:
    """The model that came, in full or as differences, now kept; None if it cannot be followed."""
    version = config[VERSION]
    model = record
    if BASE in config:
        held = context.state.config_records.get(HELD + suffix, ConfigRecord()).get("version")
        start, base = context.state.array_records.get(MODEL + suffix), config[BASE]
        if start is None or not isinstance(held, int) or not base <= held <= version:
            return None
        model = from_differences(start, record, held - base)
        if checksum(model) != config.get(CHECKSUM):
            return None
    context.state[MODEL + suffix] = model
    context.state[HELD + suffix] = ConfigRecord({"version": version})
    return model
