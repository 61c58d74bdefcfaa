"""How updates travel in the replies of one round: read as the server will, written as it asks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

from flwr.app import Array, ArrayRecord, Message, RecordDict
from torch import Tensor

from hqde_fl.clients.message_fields import array_record, server_round
from hqde_fl.clients.mods.codec import REQUEST
from hqde_fl.codec import Codec
from hqde_fl.codec.request import from_json
from hqde_fl.protocol.members import model_arrays, replace_model, select_member_reply
from hqde_fl.protocol.packed_updates import pack_update
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, screen
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Layout


@final
@dataclass(frozen=True, eq=False)
class RoundUpdates:
    """The updates of one model in the replies to one round's training messages.

    Parameters
    ----------
    member : int or None
        Which member of an ensemble; None where there is one model.
    key : str
        The name of the ``ArrayRecord``, in messages and in replies.
    layout : Layout
        The global model's.
    model : Tensor
        (d,) the global model.
    buffers : Mapping[str, Tensor]
        Its integer and boolean buffers.
    codec : Codec or None
        How the server asked for updates to be packed; full weights without.
    round : int
        The server's round.
    seeds : Seeds
        Of the run, for codecs that round at random.
    screening : Screening
        What the server lets pass.
    """

    member: int | None
    key: str
    layout: Layout
    model: Tensor
    buffers: Mapping[str, Tensor]
    codec: Codec | None
    round: int
    seeds: Seeds
    screening: Screening

    @classmethod
    def of(
        cls, message: Message, seeds: Seeds, screening: Screening, member: int | None = None
    ) -> Self:
        """What a training message says about the replies to it."""
        key, record = array_record(message)
        arrays = model_arrays(record, member)
        layout = layout_of(arrays)
        model, buffers = layout.flatten(from_record(arrays))
        asked = [config.get(REQUEST) for config in message.content.config_records.values()]
        codec = next((from_json(text) for text in asked if isinstance(text, str)), None)
        number = server_round(message)
        return cls(member, key, layout, model, buffers, codec, number, seeds, screening)

    def read(self, reply: Message) -> Accepted | Rejected:
        """The update in a reply, packed or not, as the server will see it."""
        if self.member is not None and list(reply.content.array_records) == [self.key]:
            reply = select_member_reply(self.member, reply, self.key)
        return screen(reply, self.layout, self.model, self.screening, self.key)

    def write(self, reply: Message, client: int, delta: Tensor) -> Message:
        """A client's reply with another update (d,); buffers are the global model's.

        An update with numbers that no codec takes travels as full weights, as a client's would. The
        memory of error feedback is left to the honest: nothing is carried over.
        """
        delta = delta.to(self.model)
        arrays: Mapping[str, Array] = to_record(
            self.layout.restore(self.model + delta, self.buffers)
        )
        if self.codec is not None:
            which = () if self.member is None else (self.member,)
            rng = self.seeds.numpy("attack", "codec", client, self.round, *which)
            packed = pack_update(arrays, delta, self.layout, self.codec, {}, rng)
            arrays = arrays if packed is None else packed[0]
        forged = copy.copy(reply)
        forged.content = RecordDict(dict(reply.content))
        record = ArrayRecord() if self.member is None else reply.content.array_records[self.key]
        forged.content[self.key] = replace_model(record, self.member, arrays)
        return forged
