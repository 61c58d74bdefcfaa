"""Codec: replies with a packed update in the place of full weights."""

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
"""The key of the message's config under which a server names a codec."""
MEMORY = "hqde.codec"
"""Prefix of the records in the client's state: what the codec remembers, and whose memory it is.

Each member has its own, with the member's name.
"""
BYTES_BEFORE, BYTES_AFTER = "plain-bytes", "packed-bytes"


@final
@dataclass(frozen=True)
class CodecMod:
    """A Flower mod that packs the update in any ClientApp's reply to a training message.

    Put it outside of mods that change the weights. What it cannot pack it hands on as it is, for
    the server to screen: errors, arrays that are not the model's, numbers that are not finite. In
    those cases, and when the client raises, the memory of error feedback stays as it was. The
    memory lies in ``Context.state``; it starts anew when the codec or the model's size changes.

    The reply gains the metrics ``plain-bytes`` and ``packed-bytes``: the size of its arrays before
    and after. With error feedback it also names the models for which it had no error to feed back.

    Parameters
    ----------
    codec : Codec, optional
        Which codec. Without one, that which the server's message asks for, and if it does not ask,
        the reply stays as it is.
    seed : int, default=0
        The run's seed, for codecs that round at random.
    """

    codec: Codec | None = None
    seed: int = 0

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Pack the reply to a training message; hand on any other."""
        codec = _requested(message) if self.codec is None else self.codec
        if not is_training(message) or codec is None:
            return call_next(message, context)
        _, start = array_record(message)  # before the app, which might change the message
        layout, parts = layout_of(start), _parts(message, start)
        reply = call_next(message, context)
        if not _fits(reply, layout):
            return reply
        _, trained = array_record(reply)
        place = int(context.node_config.get("partition-id", context.node_id))
        number, seeds = server_round(message), Seeds(self.seed)
        packed, memories, anew = ArrayRecord(), [], list[int]()
        for part in parts:
            arrays = model_arrays(trained, part.member)
            delta = part.delta(arrays)
            if delta is None:
                return reply
            which = () if part.member is None else (part.member,)
            rng = seeds.numpy("codec", place, number, *which)
            owner = ConfigRecord({"codec": to_json(codec), "size": packed_size(part.layout)})
            remembered = _recall(context, part.memory, owner)
            result = pack_update(arrays, delta, part.layout, codec, remembered, rng)
            if result is None:
                return reply
            arrays, memory = result
            memories.append((part.memory, owner, memory))
            if codec.stateful and not remembered:
                anew.append(part.member or 0)
            packed.update(arrays if part.member is None else add_member_prefix(part.member, arrays))
        for where, owner, memory in memories:  # all or nothing
            _keep(context, where, owner, memory)
        return _answer(message, reply, packed, anew)


@dataclass(frozen=True, eq=False)
class _Part:
    """One model in a message: the only one, or a member among others."""

    member: int | None
    layout: Layout
    origin: Mapping[str, Tensor]

    @property
    def memory(self) -> str:
        """Where in the client's state the codec's memory of it lies."""
        return MEMORY if self.member is None else f"{MEMORY}.{member_name(self.member)}"

    def delta(self, arrays: Mapping[str, Array]) -> Tensor | None:
        """Return the model's update (d,) from its trained arrays; None if they are malformed."""
        try:
            trained = from_record(arrays)
        except Exception:  # the server screens the bytes and reports what is wrong with them
            return None
        return self.layout.flatten(trained)[0] - self.layout.flatten(self.origin)[0]


def _parts(message: Message, record: ArrayRecord) -> list[_Part]:
    """The models in a training message."""
    members: Sequence[int | None] | None = requested_members(message)
    return [
        _Part(member, layout_of(arrays), from_record(arrays))
        for member in ([None] if members is None else members)
        for arrays in (model_arrays(record, member),)
    ]


def _requested(message: Message) -> Codec | None:
    for record in message.content.config_records.values():
        if isinstance(text := record.get(REQUEST), str):
            return from_json(text)
    return None


def _fits(reply: Message, layout: Layout) -> bool:
    """Whether the reply's arrays are those of what was sent."""
    if reply.has_error() or len(reply.content.array_records) != 1:
        return False
    _, record = array_record(reply)
    if {entry.name for entry in layout.entries} != set(record):
        return False
    found = ((entry, record[entry.name]) for entry in layout.entries)
    return all(
        (tuple(array.shape), array.dtype) == (entry.shape, entry.dtype) for entry, array in found
    )


def _answer(message: Message, reply: Message, packed: ArrayRecord, anew: list[int]) -> Message:
    """The reply with packed arrays, what that saved, and the models without an error fed back."""
    name, trained = array_record(reply)
    content = RecordDict(dict(reply.content))
    content[name] = packed
    sizes = {
        BYTES_BEFORE: message_bytes(RecordDict({name: trained})),
        BYTES_AFTER: message_bytes(RecordDict({name: packed})),
    }
    for key, metrics in reply.content.metric_records.items():
        content[key] = MetricRecord({**metrics, **sizes})
    if anew:
        content[FEEDBACK] = ConfigRecord({NO_RESIDUAL: anew})
    return Message(content, reply_to=message)


def _recall(context: Context, place: str, owner: ConfigRecord) -> dict[str, Any]:
    """What the codec remembers, if it is this codec's and for vectors of this size."""
    record = context.state.array_records.get(f"{place}.memory")
    if record is None or context.state.config_records.get(place) != owner:
        return {}
    return dict(from_record(record))


def _keep(context: Context, place: str, owner: ConfigRecord, memory: Mapping[str, Tensor]) -> None:
    if not memory:
        for name in (place, f"{place}.memory"):
            context.state.pop(name, None)
        return
    context.state[place] = owner
    context.state[f"{place}.memory"] = to_record(memory)
