"""Reading and writing of updates in the replies of one round, packed or not."""

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
    """A reader and writer of one model's updates in the replies of one round.

    Parameters
    ----------
    member : int or None
        Number of the ensemble member; None if there is a single model.
    key : str
        Name of the ``ArrayRecord``, in messages and in replies.
    layout : Layout
        Layout of the global model.
    model : Tensor
        (d,) the global model.
    buffers : Mapping[str, Tensor]
        Integer and boolean buffers of the global model.
    codec : Codec or None
        Codec that the server requested for updates; full weights without one.
    round : int
        The server's round.
    seeds : Seeds
        The run's seeds, for codecs that round at random.
    screening : Screening
        The server's screening.
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
        """Build the reader and writer of a member's updates in replies to a training message.

        Without a member, of the only model's.
        """
        key, record = array_record(message)
        arrays = model_arrays(record, member)
        layout = layout_of(arrays)
        model, buffers = layout.flatten(from_record(arrays))
        requests = [config.get(REQUEST) for config in message.content.config_records.values()]
        codec = next((from_json(text) for text in requests if isinstance(text, str)), None)
        number = server_round(message)
        return cls(member, key, layout, model, buffers, codec, number, seeds, screening)

    def read(self, reply: Message) -> Accepted | Rejected:
        """Screen a reply as the server does; return the model's update, or why it is rejected."""
        if self.member is not None and list(reply.content.array_records) == [self.key]:
            reply = select_member_reply(self.member, reply, self.key)
        return screen(reply, self.layout, self.model, self.screening, self.key)

    def write(self, reply: Message, client: int, delta: Tensor) -> Message:
        """Return a client's reply with another update (d,) and the global model's buffers.

        An update with values that codecs refuse is sent as full weights, as clients do. Error
        feedback is not applied.
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
