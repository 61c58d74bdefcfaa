"""Codec: replies with a packed update instead of full weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from hqde_fl.clients.message_fields import array_record, is_training, server_round
from hqde_fl.codec import Codec
from hqde_fl.codec.request import from_json, to_json
from hqde_fl.protocol.members import (
    add_member_prefix,
    config_value,
    member_name,
    model_arrays,
    requested_members,
)
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.packed_updates import FEEDBACK, NO_RESIDUAL, pack_update, packed_size
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Layout

REQUEST = "codec"
"""Key of a message's config under which the server requests a codec."""
MEMORY = "hqde.codec"
"""Prefix of the records in the client's state that hold a codec's state and its owner.

An ensemble has such records for each member, with the member's name.
"""
BYTES_BEFORE, BYTES_AFTER = "plain-bytes", "packed-bytes"


@final
@dataclass(frozen=True)
class CodecMod:
    """A Flower mod that packs the update in any ClientApp's reply to a training message.

    It belongs outside of mods that change the weights. Replies that it cannot pack are passed on
    unchanged for the server to screen: errors, arrays that are not the model's, values that are not
    finite. In those cases, and if the client raises, the residual of error feedback is not changed.
    The residual is kept in ``Context.state``; another codec or model size begins without one.

    Every ``MetricRecord`` of the reply gains ``plain-bytes`` and ``packed-bytes``, the size of its
    arrays before and after packing. With error feedback the reply also lists the numbers of the
    ensemble members (0 for one model) for which the client held no residual, if there are any.

    Parameters
    ----------
    codec : Codec, optional
        The codec. Without one, the codec that the server's message requests is used; if there is
        none either, the reply is not packed.
    seed : int, default=0
        The run's seed, for codecs that round at random.
    """

    codec: Codec | None = None
    seed: int = 0

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Pack the reply to a training message.

        Any other message is passed on, and every message if no codec is given or requested.
        """
        codec = _requested_codec(message) if self.codec is None else self.codec
        if not is_training(message) or codec is None:
            return call_next(message, context)
        _, start = array_record(message)  # read first, as the app might change the message
        layout, parts = layout_of(start), _parts(message, start)
        reply = call_next(message, context)
        if not _fits(reply, layout):
            return reply
        _, trained = array_record(reply)
        client = int(context.node_config.get("partition-id", context.node_id))
        number, seeds = server_round(message), Seeds(self.seed)
        packed, memories, without_residual = ArrayRecord(), [], list[int]()
        for part in parts:
            arrays = model_arrays(trained, part.member)
            delta = part.delta(arrays)
            if delta is None:
                return reply
            member = () if part.member is None else (part.member,)
            rng = seeds.numpy("codec", client, number, *member)
            owner = ConfigRecord({"codec": to_json(codec), "size": packed_size(part.layout)})
            stored = _load_memory(context, part.memory, owner)
            result = pack_update(arrays, delta, part.layout, codec, stored, rng)
            if result is None:
                return reply
            arrays, memory = result
            memories.append((part.memory, owner, memory))
            if codec.stateful and not stored:
                without_residual.append(part.member or 0)
            packed.update(arrays if part.member is None else add_member_prefix(part.member, arrays))
        for name, owner, memory in memories:  # only now that every model could be packed
            _store_memory(context, name, owner, memory)
        return _packed_reply(message, reply, packed, without_residual)


@dataclass(frozen=True, eq=False)
class _Part:
    """One model in a message: a single model, or a member of an ensemble."""

    member: int | None
    layout: Layout
    origin: Mapping[str, Tensor]

    @property
    def memory(self) -> str:
        """The name of the record in the client's state that holds the codec's memory."""
        return MEMORY if self.member is None else f"{MEMORY}.{member_name(self.member)}"

    def delta(self, arrays: Mapping[str, Array]) -> Tensor | None:
        """Return the model's update (d,) from its trained arrays; None if they are malformed."""
        try:
            trained = from_record(arrays)
        except Exception:  # the server screens the bytes and reports what is wrong with them
            return None
        return self.layout.flatten(trained)[0] - self.layout.flatten(self.origin)[0]


def _parts(message: Message, record: ArrayRecord) -> list[_Part]:
    """Return a part for each ensemble member that a message lists, or one for its only model."""
    members: Sequence[int | None] | None = requested_members(message)
    return [
        _Part(member, layout_of(arrays), from_record(arrays))
        for member in ([None] if members is None else members)
        for arrays in (model_arrays(record, member),)
    ]


def _requested_codec(message: Message) -> Codec | None:
    text = config_value(message, REQUEST, str)
    return None if text is None else from_json(text)


def _fits(reply: Message, layout: Layout) -> bool:
    """Return True if the reply's arrays have the names, shapes and dtypes of the sent model.

    False for an error reply, or one without exactly one ``ArrayRecord``.
    """
    if reply.has_error() or len(reply.content.array_records) != 1:
        return False
    _, record = array_record(reply)
    if {entry.name for entry in layout.entries} != set(record):
        return False
    pairs = ((entry, record[entry.name]) for entry in layout.entries)
    return all(
        (tuple(array.shape), array.dtype) == (entry.shape, entry.dtype) for entry, array in pairs
    )


def _packed_reply(
    message: Message, reply: Message, packed: ArrayRecord, without_residual: list[int]
) -> Message:
    """Return the reply with packed arrays, and the bytes before and after in all its metrics.

    The members ``without_residual``, if there are any, are listed in a record of their own.
    """
    name, trained = array_record(reply)
    content = RecordDict(dict(reply.content))
    content[name] = packed
    sizes = {
        BYTES_BEFORE: message_bytes(RecordDict({name: trained})),
        BYTES_AFTER: message_bytes(RecordDict({name: packed})),
    }
    for key, metrics in reply.content.metric_records.items():
        content[key] = MetricRecord({**metrics, **sizes})
    if without_residual:
        content[FEEDBACK] = ConfigRecord({NO_RESIDUAL: without_residual})
    return Message(content, reply_to=message)


def _load_memory(context: Context, name: str, owner: ConfigRecord) -> dict[str, Any]:
    """Return a codec's stored memory; empty if none is stored for this codec and model size."""
    record = context.state.array_records.get(f"{name}.memory")
    if record is None or context.state.config_records.get(name) != owner:
        return {}
    return dict(from_record(record))


def _store_memory(
    context: Context, name: str, owner: ConfigRecord, memory: Mapping[str, Tensor]
) -> None:
    if not memory:
        for key in (name, f"{name}.memory"):
            context.state.pop(key, None)
        return
    context.state[name] = owner
    context.state[f"{name}.memory"] = to_record(memory)
