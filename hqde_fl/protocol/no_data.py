"""The reply of a client that has no data to train on, written and recognised in one place.

It is an error reply with a reason of its own, which Flower's strategies pass over, but for those
for differential privacy: these aggregate nothing in a round with an error reply. Servers of this
project count such a client as *skipped*: it is not faulty, it is not asked again for some rounds,
and a rule's f stays as it is.
"""

from __future__ import annotations

from flwr.app import Error, Message

from hqde_fl.protocol.flower_internals import ErrorCode

NO_DATA = "skipped: no data"
"""The reason of the reply, and of the client's record."""


def no_data(message: Message) -> Message:
    """Return the reply to a message of a client that has no data."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, NO_DATA), reply_to=message)


def has_no_data(reply: Message) -> bool:
    """Return whether a reply says that its client has no data."""
    return reply.has_error() and reply.error.reason == NO_DATA
