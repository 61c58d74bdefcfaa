"""The part of a root's config that an edge passes on to its clients."""

from __future__ import annotations

import re

from flwr.app import ConfigRecord, Message

from hqde_fl.protocol.delta_broadcast import BASE, CHECKSUM, VERSION
from hqde_fl.protocol.held_entries import HELD_ENTRIES, HELD_MASK
from hqde_fl.protocol.members import MEMBERS, message_config
from hqde_fl.protocol.message_roles import BUFFERS, ROLES, TIED, UNSETTLED
from hqde_fl.protocol.omitted_entries import LEAVE_OUT
from hqde_fl.protocol.partial_work import WORK

PROTOCOL_KEYS = frozenset(
    {
        "server-round",
        "codec",
        BASE,
        BUFFERS,
        CHECKSUM,
        HELD_ENTRIES,
        HELD_MASK,
        LEAVE_OUT,
        MEMBERS,
        ROLES,
        TIED,
        UNSETTLED,
        VERSION,
        WORK,
    }
)
"""Keys that are about this message alone; the edge's own messages have theirs."""

_OF_MEMBER = re.compile(r"member-\d+/")


def relayed_config(message: Message) -> ConfigRecord:
    """Return the entries of a message's config that are the user's own, as a learning rate."""
    config = message_config(message)
    return ConfigRecord(
        {
            key: value
            for key, value in config.items()
            if key not in PROTOCOL_KEYS and not _OF_MEMBER.match(key)
        }
    )
