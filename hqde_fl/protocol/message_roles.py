"""The roles of a model's entries in a training message.

The server's message tells clients the role of each entry, so that codecs, noise and faults on the
client's side act on the same weights as the server does. Stock clients ignore it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import ArrayRecord, Message

from hqde_fl.protocol.members import (
    message_config,
    model_arrays,
    requested_members,
    select_member,
)
from hqde_fl.protocol.records import triples
from hqde_fl.updates.layout import Layout

ROLES, TIED = "roles", "tied"
"""Keys of the message's config, below a member's name in an ensemble: ``Layout.codes`` and, where
there are ties, ``Layout.tied_pairs``."""

UNSETTLED = "roles-unsettled"
"""Key of the message's config, below a member's name in an ensemble: true if the roles are inferred
and the first round will settle which weights are trained."""
BUFFERS = "buffers"
"""Key of the message's config: "local" if each client keeps its own statistics."""


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
        return {None: told_layout(triples(record), config)}
    return {
        member: told_layout(triples(model_arrays(record, member)), select_member(member, config))
        for member in members
    }


def told_layout(
    arrays: Sequence[tuple[str, tuple[int, ...], str]], config: Mapping[str, object]
) -> Layout:
    """Return the layout of a model with the roles that a config tells; inferred if it tells none.

    Parameters
    ----------
    arrays : Sequence[tuple[str, tuple[int, ...], str]]
        (name, shape, dtype) of all arrays of the model, in its order.
    config : Mapping[str, object]
        The config of a message, or a member's part of it.
    """
    codes, tied = config.get(ROLES), config.get(TIED, [])
    if not isinstance(codes, str) or len(codes) != len(arrays) or not isinstance(tied, list):
        return Layout.of(arrays)
    try:
        return Layout.from_codes(arrays, codes, tied)
    except (KeyError, IndexError, ValueError):  # another server means something else by the key
        return Layout.of(arrays)


def is_unsettled(message: Message) -> bool:
    """Return whether a training message says that its round settles which weights are trained."""
    return any(key.rpartition("/")[2] == UNSETTLED for key in message_config(message))
