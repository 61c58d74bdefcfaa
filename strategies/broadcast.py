"""What the server sends: the model in full, or what has changed since a client last had it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from hqde_fl.codec import Codec
from hqde_fl.protocol.delta_broadcast import (
    BASE,
    CHECKSUM,
    HELD,
    NONE,
    VERSION,
    checksum,
    difference,
    moved,
    to_differences,
)
from hqde_fl.protocol.members import member_name
from hqde_fl.protocol.records import to_record
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Layout

MOST_PAYLOADS = 8
"""A client that is further behind gets the model in full."""

Content = tuple[ArrayRecord, ConfigRecord]
"""The arrays and the config of a message."""

Offer = tuple[ArrayRecord, Mapping[str, int]]
"""The arrays of one model, and what the config has to say about them."""


@dataclass(frozen=True, eq=False)
class Broadcast:
    """The clients' model, and which version of it each of them holds.

    Clients train from this model, not from the server's: it follows the server's with the codec's
    error, which is part of the next difference and so is made up for (error feedback). Every client
    of a round gets the same model, whether in full or as differences.

    Parameters
    ----------
    layout : Layout
        Of the model.
    model : Mapping[str, Tensor]
        The clients' model.
    version : int
        Its version, one more in every round.
    payloads : tuple[bytes, ...]
        The last differences; the last one leads to this version.
    held : Mapping[int, int]
        Node -> the version it says it holds.
    """

    layout: Layout
    model: Mapping[str, Tensor]
    version: int = 0
    payloads: tuple[bytes, ...] = ()
    held: Mapping[int, int] = field(default_factory=dict)

    @cached_property
    def flat(self) -> Tensor:
        """(d,) the clients' model."""
        return self.layout.flatten(self.model)[0]

    def follow(self, model: Mapping[str, Tensor], codec: Codec, seeds: Seeds) -> Broadcast:
        """The next version, nearer to the server's model."""
        version = self.version + 1
        payload = None
        if self.held:
            payload = difference(self.model, model, self.layout, codec, seeds, version)
        if payload is None:  # nobody could use it, so the model can be exact
            return replace(self, model=model, version=version, payloads=(), held={})
        followed = moved(self.model, model, self.layout, [payload])
        kept = (*self.payloads, payload)[-MOST_PAYLOADS:]
        return replace(self, model=followed, version=version, payloads=kept)

    def offer(self, behind: int) -> Offer:
        """What is sent to a node that is so many payloads behind: arrays, and their config."""
        full = to_record(self.model)
        config: dict[str, int] = {VERSION: self.version, CHECKSUM: checksum(full)}
        if behind == 0:
            return full, config
        record = to_differences(self.model, self.layout, self.payloads[-behind:])
        return record, {**config, BASE: self.version - behind}

    def heard(self, current: Collection[int], lost: Collection[int]) -> Broadcast:
        """With the word of some nodes that they hold this version, and of some that they hold none.

        Whoever says nothing is taken to hold what it held.
        """
        held = {node: version for node, version in self.held.items() if node not in lost}
        return replace(self, held=held | dict.fromkeys(current, self.version))

    def behind(self, node: int) -> int:
        """How many payloads a node needs; 0 if it needs the model in full."""
        behind = self.version - self.held.get(node, 0)  # more than there are, if it holds none
        if not 0 < behind <= len(self.payloads):
            return 0
        packed = sum(len(payload) for payload in self.payloads[-behind:])
        return behind if packed < self.flat.nbytes else 0


def version_held(reply: Message, member: int | None = None) -> int | None:
    """The version that a client says it holds, ``NONE`` if it could not follow; None if silent."""
    record = reply.content.config_records.get(HELD)
    key = "version" if member is None else f"{member_name(member)}/version"
    version = None if record is None else record.get(key)
    if isinstance(version, bool) or not isinstance(version, int):
        return None
    return version if version >= NONE else None


def address(
    nodes: Sequence[int],
    contents: Sequence[Content],
    keys: tuple[str, str],
    server_round: int,
    kind: str,
) -> list[Message]:
    """One message for each node; the same arrays make one content, which no one may write to."""
    shared: dict[int, RecordDict] = {}
    for arrays, config in contents:
        if id(arrays) not in shared:
            config = ConfigRecord({**config, "server-round": server_round})
            shared[id(arrays)] = RecordDict({keys[0]: arrays, keys[1]: config})
    group = str(server_round)
    pairs = zip(nodes, contents, strict=True)
    return [Message(shared[id(a)], node, kind, group_id=group) for node, (a, _) in pairs]
