"""What each client of a round is sent: the model, or its members of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import Array, ConfigRecord

from hqde_fl.protocol.members import MEMBERS, TAG, named, record_of
from hqde_fl.strategies.broadcast import Content, Offer
from hqde_fl.strategies.state import ModelState

Shares = Mapping[int, tuple[int, ...]]
"""Node -> the members that it is given."""

Tags = Mapping[int, int]
"""Member -> what a client sends back with it. The same for all clients of a round, so that those
with the same members can be sent the same message. Empty where there is one model."""


def contents(
    models: Sequence[ModelState], shares: Shares, config: ConfigRecord, tags: Tags
) -> list[Content]:
    """Arrays and config for each node; nodes that are sent the same share the same objects."""
    offers: dict[tuple[int, int], Offer] = {}
    shared: dict[tuple[tuple[int, int], ...], Content] = {}
    found = []
    for node, share in shares.items():
        parts = tuple((member, _behind(models[member], node)) for member in share)
        for member, behind in parts:
            if (member, behind) not in offers:
                offers[member, behind] = _offer(models[member], behind)
        if parts not in shared:
            some = {member: offers[member, behind] for member, behind in parts}
            shared[parts] = _joined(some, config, tags) if tags else _plain(some[0], config)
        found.append(shared[parts])
    return found


def _behind(model: ModelState, node: int) -> int:
    return 0 if model.broadcast is None else model.broadcast.behind(node)


def _offer(model: ModelState, behind: int) -> Offer:
    return (model.record, {}) if model.broadcast is None else model.broadcast.offer(behind)


def _plain(offer: Offer, config: ConfigRecord) -> Content:
    arrays, about = offer
    return arrays, ConfigRecord({**config, **about})


def _joined(offers: Mapping[int, Offer], config: ConfigRecord, tags: Tags) -> Content:
    """Several members in one message."""
    arrays: dict[str, Array] = {}
    about: dict[str, int] = {}
    for member, (record, config_of_member) in offers.items():
        arrays |= named(member, record)
        about |= named(member, {**config_of_member, TAG: tags[member]})
    return record_of(arrays), ConfigRecord({**config, MEMBERS: list(offers), **about})
