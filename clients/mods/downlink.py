"""Downlink: reconstruction of models that the server sends as differences to earlier versions."""

from __future__ import annotations

import copy
import json
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
    model_arrays,
    requested_members,
    select_member,
    uncopied_record,
)
from hqde_fl.protocol.message_roles import told_layout
from hqde_fl.protocol.packed_updates import packed_entries
from hqde_fl.protocol.records import triples

MODEL = "hqde.model"
"""Name in the client's state of the packed weights received last, below a member's name."""
ENTRIES = "entries"
"""Key in the client's state: (name, shape, dtype) of all entries of the model, as JSON."""


@final
@dataclass(frozen=True)
class DownlinkMod:
    """A Flower mod that reconstructs models which the server sends as differences.

    It must be outside of all mods that read models: those see full models only. ``Context.state``
    keeps the packed weights of the last model, or of the last of each member; all other entries
    come with every message. A client that lacks the model to which the differences apply, or whose
    checksum is wrong, replies that it holds no version instead of training; the server then sends
    the full model.
    """

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Reconstruct the model, train, and report the version that this client now holds.

        Without training, report ``NO_VERSION`` if a model cannot be reconstructed. Messages that
        are not for training, or name no version, are passed on.
        """
        if not is_training(message):
            return call_next(message, context)
        config, listed = message_config(message), requested_members(message)
        members = [None] if listed is None else list(listed)
        configs = {m: config if m is None else select_member(m, config) for m in members}
        if not any(isinstance(own.get(VERSION), int) for own in configs.values()):
            return call_next(message, context)
        name, record = array_record(message)
        models: dict[str, Array] = {}
        held = ConfigRecord()
        for member, own in configs.items():
            suffix = "" if member is None else f".{member_name(member)}"
            model = _reconstruct(model_arrays(record, member), own, context, suffix)
            version = {"version": NO_VERSION if model is None else own[VERSION]}
            held.update(version if member is None else add_member_prefix(member, version))
            if model is not None:
                models |= model if member is None else add_member_prefix(member, model)
        if NO_VERSION in held.values():
            return Message(RecordDict({HELD: held}), reply_to=message)
        full = copy.copy(message)
        full.content = RecordDict(dict(message.content))
        full.content[name] = uncopied_record(models)
        reply = call_next(full, context)
        if reply.has_error():
            return reply
        return Message(RecordDict({**reply.content, HELD: held}), reply_to=message)


def _reconstruct(
    arrays: Mapping[str, Array], config: Mapping[str, Any], context: Context, suffix: str
) -> ArrayRecord | None:
    """Return the full model that was sent, in full or as differences; keep its packed weights.

    None, with the state unchanged, if the client lacks the model to which the differences apply, or
    the reconstructed model's checksum is wrong.
    """
    version, model = config[VERSION], uncopied_record(arrays)
    if BASE in config:
        kept = context.state.config_records.get(HELD + suffix, ConfigRecord())
        start, base = context.state.array_records.get(MODEL + suffix), config[BASE]
        held, entries = kept.get("version"), kept.get(ENTRIES)
        if start is None or not isinstance(held, int) or not base <= held <= version:
            return None
        if not isinstance(entries, str):
            return None
        named = [(name, tuple(shape), dtype) for name, shape, dtype in json.loads(entries)]
        layout = told_layout(named, config)
        if not {entry.name for entry in packed_entries(layout)} <= start.keys():
            return None
        model = from_differences(start, arrays, layout, held - base)
        if checksum(model) != config.get(CHECKSUM):
            return None
    packed = packed_entries(told_layout(triples(model), config))
    context.state[MODEL + suffix] = uncopied_record({e.name: model[e.name] for e in packed})
    context.state[HELD + suffix] = ConfigRecord(
        {"version": version, ENTRIES: json.dumps(triples(model))}
    )
    return model
