"""The clients' model: its versions, and the version that each client holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from flwr.app import ArrayRecord, ConfigRecord, Message
from torch import Tensor

from hqde_fl.codec import Codec
from hqde_fl.protocol.delta_broadcast import (
    BASE,
    CHECKSUM,
    HELD,
    NO_VERSION,
    VERSION,
    apply_differences,
    checksum,
    encode_difference,
    to_differences,
)
from hqde_fl.protocol.members import member_name, records_of
from hqde_fl.protocol.records import model_record
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Layout

MAX_PAYLOADS = 8
"""Differences that are kept: a client that needs more of them gets the model in full."""

Content = tuple[ArrayRecord, ConfigRecord]
"""Arrays and config of a message, or of one member's part of it."""


@dataclass(frozen=True, eq=False)
class Broadcast:
    """The clients' model, and the version of it that each client holds.

    Clients train from this model, not from the server's. It differs from the server's by the error
    of the codec, which is part of the next difference and so is corrected (error feedback). Every
    client of a round gets the same model, whether in full or as differences.

    Parameters
    ----------
    layout : Layout
        The model's layout.
    model : Mapping[str, Tensor]
        The clients' model, as a state dict.
    version : int
        Its version, one more in every round.
    payloads : tuple[bytes, ...]
        The latest differences, at most ``MAX_PAYLOADS``; the last one leads to this version.
    held : Mapping[int, int]
        Node id -> the version that the node reported to hold.
    """

    layout: Layout
    model: Mapping[str, Tensor]
    version: int = 0
    payloads: tuple[bytes, ...] = ()
    held: Mapping[int, int] = field(default_factory=dict)

    @cached_property
    def flat(self) -> Tensor:
        """The clients' model as one vector (d,)."""
        return self.layout.flatten(self.model)[0]

    @cached_property
    def record(self) -> ArrayRecord:
        """The clients' model as Flower sends it, read-only."""
        return model_record(self.model, self.layout)

    def with_layout(self, layout: Layout) -> Broadcast:
        """Return the same model with other roles of its entries, which no node holds a version of.

        What is packed depends on the roles, so that earlier differences do not lead to it.
        """
        return replace(self, layout=layout, payloads=(), held={})

    def next_version(self, model: Mapping[str, Tensor], codec: Codec, seeds: Seeds) -> Broadcast:
        """Return the next version: the old one plus its packed difference to the server's model.

        If no node holds a version, or the difference cannot be packed, it is exactly the server's
        model, without payloads, and every node is sent the model in full.

        Parameters
        ----------
        model : Mapping[str, Tensor]
            The server's model, as a state dict.
        codec : Codec
            Packs the difference.
        seeds : Seeds
            Source of the codec's random numbers.
        """
        version = self.version + 1
        payload = None
        if self.held:
            payload = encode_difference(self.model, model, self.layout, codec, seeds, version)
        if payload is None:  # no client could use a difference, so the model can be exact
            return replace(self, model=model, version=version, payloads=(), held={})
        reconstructed = apply_differences(self.model, model, self.layout, [payload])
        kept = (*self.payloads, payload)[-MAX_PAYLOADS:]
        return replace(self, model=reconstructed, version=version, payloads=kept)

    def content(self, behind: int) -> Content:
        """Return the arrays and the config for a node that needs the last ``behind`` payloads.

        With ``behind = 0`` the arrays are the model in full, else the payloads and the arrays that
        are never packed; the config then also names the version that they start from.
        """
        full = self.record
        config = ConfigRecord({VERSION: self.version, CHECKSUM: checksum(full)})
        if behind == 0:
            return full, config
        config[BASE] = self.version - behind
        return to_differences(self.model, self.layout, self.payloads[-behind:]), config

    def with_held(self, reported: Mapping[int, int]) -> Broadcast:
        """Return the broadcast after nodes have reported which version they hold.

        Parameters
        ----------
        reported : Mapping[int, int]
            Node id -> version, ``NO_VERSION`` for a node that holds none. Nodes that are missing
            are taken to hold what they held before.
        """
        held = {**self.held, **reported}
        held = {node: version for node, version in held.items() if version != NO_VERSION}
        return replace(self, held=held)

    def payloads_behind(self, node: int) -> int:
        """Return the number of payloads to send to a node; 0 to send it the model in full.

        That is so if the payloads do not begin at the version that the node holds, if it holds none
        or the present one, or if they are no smaller than the model.
        """
        # A node that holds no version is further behind than the payloads reach.
        behind = self.version - self.held.get(node, 0)
        if not 0 < behind <= len(self.payloads):
            return 0
        packed = sum(len(payload) for payload in self.payloads[-behind:])
        return behind if packed < self.flat.nbytes else 0


def version_held(reply: Message, member: int | None = None) -> int | None:
    """Return the version of the clients' model that a reply says its sender holds.

    It is ``NO_VERSION`` if the client lacked the version that the differences start from, and None
    if the reply does not say, or names no valid version.

    Parameters
    ----------
    reply : Message
        A reply to a training message, not yet screened.
    member : int, optional
        The member of the ensemble; None where there is one model.
    """
    record = records_of(reply.content, ConfigRecord).get(HELD)
    key = "version" if member is None else f"{member_name(member)}/version"
    version = None if record is None else record.get(key)
    if isinstance(version, bool) or not isinstance(version, int):
        return None
    return version if version >= NO_VERSION else None
