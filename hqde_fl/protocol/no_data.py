"""The reply of a client that has no data to train on.

It is an error reply with a reason of its own. Flower's strategies ignore it, except those for
differential privacy, which aggregate nothing in a round with an error reply. Servers of this
project count such a client as *skipped*: it is not faulty, it gets no message for some rounds, and
a rule's f is not lowered for it.
"""

from __future__ import annotations

from flwr.app import Error, Message

from hqde_fl.protocol.flower_internals import ErrorCode

NO_DATA = "skipped: no data"
"""The reason of the reply, and of the client's record."""


def no_data(message: Message) -> Message:
    """Return the error reply to a message by which a client says that it has no data."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, NO_DATA), reply_to=message)


def has_no_data(reply: Message) -> bool:
    """Return whether a reply says that its client has no data."""
    return reply.has_error() and reply.error.reason == NO_DATA
