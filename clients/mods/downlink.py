"""Downlink: reconstruction of models that the server sends as differences to earlier versions."""

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
    NO_VERSION,
    VERSION,
    checksum,
    from_differences,
)
from hqde_fl.protocol.members import (
    add_member_prefix,
    member_name,
    message_config,
    requested_members,
    select_member,
    uncopied_record,
)

MODEL = "hqde.model"
"""Name in the client's state of the last received model; a member's name is appended to it."""


@final
@dataclass(frozen=True)
class DownlinkMod:
    """A Flower mod that reconstructs models which the server sends as differences.

    It must be the outermost mod: those inside then see full models only. ``Context.state`` keeps
    the last model, or the last of each member. A client that lacks the model to which the
    differences apply, or whose checksum is wrong, replies that it holds no version instead of
    training; the server then sends the full model.
    """

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Reconstruct the model, train, and report the version that this client now holds.

        Without training, report ``NO_VERSION`` if a model cannot be reconstructed. Messages that
        are not for training, or name no version, are passed on.
        """
        if not is_training(message):
            return call_next(message, context)
        config, members = message_config(message), requested_members(message)
        if members is None:
            return self._train_single_model(message, config, context, call_next)
        if not any(VERSION in select_member(member, config) for member in members):
            return call_next(message, context)
        name, record = array_record(message)
        models: dict[str, Array] = {}
        held = ConfigRecord()
        for member in members:
            sent, version = (
                uncopied_record(select_member(member, record)),
                select_member(member, config),
            )
            suffix = f".{member_name(member)}"
            model = _reconstruct(sent, version, context, suffix)
            held.update(
                add_member_prefix(
                    member, {"version": NO_VERSION if model is None else version[VERSION]}
                )
            )
            if model is not None:
                models |= add_member_prefix(member, model)
        if NO_VERSION in held.values():
            return Message(RecordDict({HELD: held}), reply_to=message)
        return _train(message, name, uncopied_record(models), held, context, call_next)

    def _train_single_model(
        self,
        message: Message,
        config: ConfigRecord,
        context: Context,
        call_next: ClientAppCallable,
    ) -> Message:
        if not isinstance(version := config.get(VERSION), int):
            return call_next(message, context)
        name, record = array_record(message)
        model = _reconstruct(record, config, context)
        if model is None:
            return Message(
                RecordDict({HELD: ConfigRecord({"version": NO_VERSION})}), reply_to=message
            )
        held = ConfigRecord({"version": version})
        return _train(message, name, model, held, context, call_next)


def _train(
    message: Message,
    name: str,
    model: ArrayRecord,
    held: ConfigRecord,
    context: Context,
    call_next: ClientAppCallable,
) -> Message:
    """Train on the full model and return the reply with the versions that the client holds.

    An error reply is returned unchanged.
    """
    full = copy.copy(message)
    full.content = RecordDict(dict(message.content))
    full.content[name] = model
    reply = call_next(full, context)
    if reply.has_error():
        return reply
    return Message(RecordDict({**reply.content, HELD: held}), reply_to=message)


def _reconstruct(
    record: ArrayRecord, config: Mapping[str, Any], context: Context, suffix: str = ""
) -> ArrayRecord | None:
    """Return the full model that was sent, in full or as differences; keep it in the state.

    None, with the state unchanged, if the client lacks the model to which the differences apply, or
    the reconstructed model's checksum is wrong.
    """
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
