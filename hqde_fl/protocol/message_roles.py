"""The roles of a model's entries in a training message.

The server's message tells clients the role of each entry, so that codecs, noise and faults on the
client's side act on the same weights as the server does. Stock clients ignore it.
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, Message

from hqde_fl.protocol.members import (
    message_config,
    model_arrays,
    requested_members,
    select_member,
)
from hqde_fl.protocol.records import layout_of, triples
from hqde_fl.updates.layout import Layout

ROLES, TIED = "roles", "tied"
"""Keys of the message's config, below a member's name in an ensemble: ``Layout.codes`` and, where
there are ties, ``Layout.tied_pairs``."""


def role_config(layout: Layout) -> dict[str, str | list[int]]:
    """Return the config of a message that tells clients the roles of a model's entries."""
    config: dict[str, str | list[int]] = {ROLES: layout.codes}
    return {**config, TIED: layout.tied_pairs} if layout.tied_pairs else config


def message_layouts(message: Message, record: ArrayRecord) -> dict[int | None, Layout]:
    """Return member -> layout of the models in a training message; None where there is one model.

    Roles that the message does not tell, as messages of other servers, are inferred.

    Parameters
    ----------
    message : Message
        The message.
    record : ArrayRecord
        Its models, in full.
    """
    config = message_config(message)
    members = requested_members(message)
    if members is None:
        return {None: _layout(record, config)}
    return {
        member: _layout(model_arrays(record, member), select_member(member, config))
        for member in members
    }


def _layout(arrays: Mapping[str, Array], config: Mapping[str, object]) -> Layout:
    codes, tied = config.get(ROLES), config.get(TIED, [])
    if not isinstance(codes, str) or len(codes) != len(arrays) or not isinstance(tied, list):
        return layout_of(arrays)
    return Layout.from_codes(triples(arrays), codes, tied)
