"""Codec: replies with a packed update instead of full weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from hqde_fl.clients.message_fields import array_record, is_training, server_round
from hqde_fl.codec import Codec
from hqde_fl.codec.request import from_json, to_json
from hqde_fl.protocol.held_entries import equal_arrays
from hqde_fl.protocol.members import (
    add_member_prefix,
    config_value,
    member_name,
    model_arrays,
    uncopied_record,
)
from hqde_fl.protocol.message_roles import message_layouts
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.omitted_entries import ENTRIES, SAME, UNCHANGED, mask_of
from hqde_fl.protocol.packed_updates import FEEDBACK, NO_RESIDUAL, pack_update, packed_entries
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Entry, Layout

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
    arrays before and after packing, without those that the client did not change. With error
    feedback the reply also lists the numbers of the ensemble members (0 for one model) for which
    the client held no residual, if there are any.

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
        parts = _parts(message, start)
        reply = call_next(message, context)
        if not _fits(reply, start):
            return reply
        _, trained = array_record(reply)
        client = int(context.node_config.get("partition-id", context.node_id))
        number, seeds = server_round(message), Seeds(self.seed)
        packed, memories, without_residual = ArrayRecord(), [], list[int]()
        omitted, unchanged = ConfigRecord(), dict[str, bool]()
        for part in parts:
            arrays = model_arrays(trained, part.member)
            update = part.update(arrays)
            if update is None:
                return reply
            member = () if part.member is None else (part.member,)
            rng = seeds.numpy("codec", client, number, *member)
            stored = _Memory.load(context, part.memory, codec, part.layout)
            entries = update.packed(stored.names)
            known = stored.state_for(entries)
            result = pack_update(update.arrays, update.delta, entries, codec, known, rng)
            if result is None:
                return reply
            arrays, state = result
            names, sizes = [e.name for e in entries], [e.numbers for e in entries]
            memories.append((part, _Memory(codec, names, sizes, state)))
            if codec.stateful and not stored.state and entries:
                without_residual.append(part.member or 0)
            same = dict.fromkeys(update.not_sent, True)
            unchanged |= same if part.member is None else add_member_prefix(part.member, same)
            left_out = update.left_out(arrays)
            packed.update(arrays if part.member is None else add_member_prefix(part.member, arrays))
            omitted.update(
                left_out if part.member is None else add_member_prefix(part.member, left_out)
            )
        for part, memory in memories:  # only now that every model could be packed
            memory.store(context, part.memory)
        return _packed_reply(message, reply, packed, without_residual, omitted, unchanged)


@dataclass(frozen=True, eq=False)
class _SentPart:
    """One model in a message: a single model, or a member of an ensemble."""

    member: int | None
    layout: Layout
    start: Mapping[str, Array]

    @property
    def memory(self) -> str:
        """The name of the record in the client's state that holds the codec's memory."""
        return MEMORY if self.member is None else f"{MEMORY}.{member_name(self.member)}"

    def update(self, arrays: Mapping[str, Array]) -> _Update | None:
        """Return the model's update from its trained arrays; None if they are malformed."""
        try:
            trained = from_record(arrays)
        except Exception:  # the server screens the bytes and reports what is wrong with them
            return None
        origin = from_record(self.start)
        delta = self.layout.flatten(trained)[0] - self.layout.flatten(origin)[0]
        return _Update(self, arrays, delta)


@dataclass(frozen=True, eq=False)
class _Update:
    """The update of one model: its trained arrays, and their difference to those sent, (d,)."""

    part: _SentPart
    trained: Mapping[str, Array]
    delta: Tensor

    @cached_property
    def _unchanged(self) -> frozenset[str]:
        start = self.part.start
        return frozenset(n for n, a in self.trained.items() if equal_arrays(a, start[n]))

    @cached_property
    def _same(self) -> dict[str, str]:
        """Weight -> another with the same bits, both as sent and as trained: the server copies."""
        same: dict[str, str] = {}
        first: dict[tuple[object, ...], str] = {}
        for entry in packed_entries(self.part.layout):
            bits = (self.part.start[entry.name].data, self.trained[entry.name].data)
            other = first.setdefault((entry.shape, entry.dtype, *bits), entry.name)
            if other != entry.name and entry.name not in self._unchanged:
                same[entry.name] = other
        return same

    @property
    def _needless(self) -> Collection[str]:
        """The arrays that need not be packed, if the server tells roles and so understands it."""
        return () if self.part.layout.inferred else {*self._unchanged, *self._same}

    @property
    def not_sent(self) -> Collection[str]:
        """The arrays that are as they were sent, if the server tells roles and so has them."""
        return () if self.part.layout.inferred else self._unchanged

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The trained arrays without tied ones that are as the first name of their tensor."""
        by_name, trained = self.part.layout.by_name, self.trained
        return {
            name: array
            for name, array in trained.items()
            if (first := by_name[name].tied_to) is None or not equal_arrays(trained[first], array)
        }

    def packed(self, remembered: Collection[str]) -> list[Entry]:
        """Return the weights to pack: those that changed, or that a residual is remembered for."""
        return [
            entry
            for entry in packed_entries(self.part.layout)
            if entry.name in remembered or entry.name not in self._needless
        ]

    def left_out(self, arrays: dict[str, Array]) -> ConfigRecord:
        """Remove the weights that need not travel from the reply's arrays and name them."""
        if self.part.layout.inferred:
            return ConfigRecord()
        names = [entry.name for entry in self.part.layout.entries]
        same = {name: other for name, other in self._same.items() if name in arrays}
        unchanged = {
            entry.name
            for entry in packed_entries(self.part.layout)
            if entry.name in arrays and entry.name in self._unchanged
        }
        for name in (*same, *unchanged):
            del arrays[name]
        record = ConfigRecord()
        if unchanged:
            record[UNCHANGED] = mask_of(unchanged, names)
        if same:
            places = {name: place for place, name in enumerate(names)}
            record[SAME] = [places[n] for pair in same.items() for n in pair]
        return record


def _parts(message: Message, record: ArrayRecord) -> list[_SentPart]:
    """Return a part for each ensemble member that a message lists, or one for its only model."""
    return [
        _SentPart(member, layout, model_arrays(record, member))
        for member, layout in message_layouts(message, record).items()
    ]


def _requested_codec(message: Message) -> Codec | None:
    text = config_value(message, REQUEST, str)
    return None if text is None else from_json(text)


def _fits(reply: Message, start: ArrayRecord) -> bool:
    """Return True if the reply's arrays have the names, shapes and dtypes of the sent ones.

    False for an error reply, or one without exactly one ``ArrayRecord``.
    """
    if reply.has_error() or len(reply.content.array_records) != 1:
        return False
    _, record = array_record(reply)
    if set(start) != set(record):
        return False
    pairs = ((array, record[name]) for name, array in start.items())
    return all(
        (tuple(own.shape), own.dtype) == (tuple(sent.shape), sent.dtype) for sent, own in pairs
    )


def _packed_reply(
    message: Message,
    reply: Message,
    packed: ArrayRecord,
    without_residual: list[int],
    omitted: ConfigRecord,
    unchanged: Collection[str],
) -> Message:
    """Return the reply with packed arrays, and the bytes before and after in all its metrics.

    Arrays that are ``unchanged`` need not travel, and do not count. The members
    ``without_residual`` and the entries that are left out, if there are any, are listed in records
    of their own.
    """
    name, trained = array_record(reply)
    content = RecordDict(dict(reply.content))
    content[name] = packed
    sizes = {
        key: message_bytes(
            RecordDict(
                {name: uncopied_record({n: a for n, a in arrays.items() if n not in unchanged})}
            )
        )
        for key, arrays in ((BYTES_BEFORE, trained), (BYTES_AFTER, packed))
    }
    for key, metrics in reply.content.metric_records.items():
        content[key] = MetricRecord({**metrics, **sizes})
    if without_residual:
        content[FEEDBACK] = ConfigRecord({NO_RESIDUAL: without_residual})
    if omitted:
        content[ENTRIES] = omitted
    return Message(content, reply_to=message)


@dataclass(frozen=True, eq=False)
class _Memory:
    """A codec's memory: the weights that it is about, their sizes, and its state."""

    codec: Codec
    names: list[str]
    sizes: list[int]
    state: Mapping[str, Tensor]

    @classmethod
    def load(cls, context: Context, name: str, codec: Codec, layout: Layout) -> _Memory:
        """Return the memory stored for a codec and model; without state if there is none."""
        record = context.state.array_records.get(f"{name}.memory")
        owner = context.state.config_records.get(name, ConfigRecord())
        names, sizes = owner.get("entries"), owner.get("sizes")
        if record is None or owner.get("codec") != to_json(codec):
            return cls(codec, [], [], {})
        known = {entry.name: entry.numbers for entry in layout.entries}
        if not isinstance(names, list) or [known.get(str(name)) for name in names] != sizes:
            return cls(codec, [], [], {})
        numbers = [known[str(name)] for name in names]
        return cls(codec, [str(name) for name in names], numbers, from_record(record))

    def state_for(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """Return the state for other weights: what is known of each, zeros for new ones."""
        if not entries:
            return {}
        if not self.state or [entry.name for entry in entries] == self.names:
            return dict(self.state)

        def moved(vector: Tensor) -> Tensor:
            if len(vector) != sum(self.sizes):
                return vector
            known = dict(zip(self.names, vector.split(self.sizes), strict=True))
            return torch.cat([known.get(e.name, vector.new_zeros(e.numbers)) for e in entries])

        return {key: moved(vector) for key, vector in self.state.items()}

    def store(self, context: Context, name: str) -> None:
        """Keep the memory in the client's state; remove what was there if it has no state."""
        if not self.state:
            for key in (name, f"{name}.memory"):
                context.state.pop(key, None)
            return
        context.state[name] = ConfigRecord(
            {"codec": to_json(self.codec), "entries": self.names, "sizes": self.sizes}
        )
        context.state[f"{name}.memory"] = to_record(self.state)
