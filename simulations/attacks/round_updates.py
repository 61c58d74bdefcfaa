"""Reading and writing of updates in the replies of one round, packed or not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, final

from flwr.app import Array, ConfigRecord, ConfigRecordValues, Message, RecordDict
from torch import Tensor

from hqde_fl.clients.message_fields import array_record, server_round
from hqde_fl.clients.mods.codec import REQUEST
from hqde_fl.codec import Codec
from hqde_fl.codec.request import from_json
from hqde_fl.protocol.control_variates import without_control
from hqde_fl.protocol.members import (
    add_member_prefix,
    model_arrays,
    replace_model,
    select_member_reply,
)
from hqde_fl.protocol.message_roles import message_layouts
from hqde_fl.protocol.omitted_entries import (
    ENTRIES,
    SAME,
    UNCHANGED,
    mask_of,
    omitted_entries,
)
from hqde_fl.protocol.packed_updates import pack_update, packed_entries
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, SentModel, screen
from hqde_fl.seeding import Seeds

SentModelOf = Callable[[int], SentModel]
"""(member) -> the model that clients were sent in this round; member 0 where there is one model."""


def sent_model_of(message: Message, member: int | None = None) -> SentModel:
    """Return the model in a training message, which must hold it in full.

    Parameters
    ----------
    message : Message
        The message.
    member : int, optional
        The member of an ensemble; None where there is one model.
    """
    _, record = array_record(message)
    layout = message_layouts(message, record)[member]
    flat, others = layout.flatten(from_record(model_arrays(record, member)))
    return SentModel(layout, flat, others)


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
    sent : SentModel
        The model that clients were sent.
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
    sent: SentModel
    codec: Codec | None
    round: int
    seeds: Seeds
    screening: Screening

    @classmethod
    def of(
        cls,
        message: Message,
        sent: SentModel,
        seeds: Seeds,
        screening: Screening,
        member: int | None = None,
    ) -> Self:
        """Build the reader and writer of a member's updates in replies to a training message.

        Without a member, of the only model's.
        """
        key, _ = array_record(message)
        requests = [config.get(REQUEST) for config in message.content.config_records.values()]
        codec = next((from_json(text) for text in requests if isinstance(text, str)), None)
        return cls(member, key, sent, codec, server_round(message), seeds, screening)

    @property
    def model(self) -> Tensor:
        """The weights (d,) that clients were sent."""
        return self.sent.flat

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers in each of the model's weights, in the order of an update."""
        return tuple(entry.numbers for entry in self.sent.layout.weights)

    def read(self, reply: Message) -> Accepted | Rejected:
        """Screen a reply as the server does; return the model's update, or why it is rejected."""
        reply, _ = without_control(reply)
        if self.member is not None and list(reply.content.array_records) == [self.key]:
            reply = select_member_reply(self.member, reply, self.key)
        return screen(reply, self.sent, self.screening, self.key, self.member)

    def write(self, reply: Message, client: int, delta: Tensor) -> Message:
        """Return a client's reply with another update (d,); all else is that of the honest reply.

        An update with values that codecs refuse is sent as full weights, as clients do. Error
        feedback is not applied.
        """
        layout, delta = self.sent.layout, delta.to(self.model)
        state = layout.restore(self.model + delta, self.sent.others)
        arrays: Mapping[str, Array] = to_record({e.name: state[e.name] for e in layout.weights})
        if self.codec is not None:
            which = () if self.member is None else (self.member,)
            rng = self.seeds.numpy("attack", "codec", client, self.round, *which)
            packed = pack_update(arrays, delta, packed_entries(layout), self.codec, {}, rng)
            arrays = arrays if packed is None else packed[0]
        forged = copy.copy(reply)
        forged.content = RecordDict(dict(reply.content))
        record = reply.content.array_records[self.key]
        honest = model_arrays(record, self.member)
        others = {e.name: honest[e.name] for e in layout.others if e.name in honest}
        forged.content[self.key] = replace_model(record, self.member, {**arrays, **others})
        if ENTRIES in reply.content.config_records:
            told = ConfigRecord({**reply.content.config_records[ENTRIES]})
            said = omitted_entries(reply.content, layout.names, self.member).unchanged
            mask = mask_of({e.name for e in layout.others if e.name in said}, layout.names)
            own: dict[str, ConfigRecordValues] = {UNCHANGED: mask, SAME: list[int]()}
            told.update(own if self.member is None else add_member_prefix(self.member, own))
            forged.content[ENTRIES] = told
        return forged
