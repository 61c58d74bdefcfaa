"""Let a SuperNode send a reply also when it has no new message.

Flower's SuperNode looks for replies only after it has received a message, and then sends the first
that it finds. The ClientApp of a run that was broken off can end late, with an error as its reply.
Where that is sent in place of the awaited one, each later reply of the node waits for the next
message: the run takes the node for silent, round after round. Likewise it only then notices that a
ClientApp was killed, whose error is a reply, too.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from hqde_fl.simulations.engines.flower_internals import start_client_internal

_SOMETHING = 0
"""Returned in place of a run's id: Flower asks only whether there was a message."""


def send_late_replies() -> None:
    """Change the SuperNode of this process, before it starts."""
    module: Any = start_client_internal
    module._pull_and_store_message = _or_late_reply(module._pull_and_store_message)


def _or_late_reply(pull: Any) -> Any:
    """Return ``pull`` with a result that sends replies on, if there are any."""

    @wraps(pull)
    def pull_or_find(**arguments: Any) -> int | None:
        run_id: int | None = pull(**arguments)
        if run_id is None and _has_reply(arguments["state"]):
            return _SOMETHING
        return run_id

    return pull_or_find


def _has_reply(state: Any) -> bool:
    state.get_messages_legacy(run_ids=())  # none, but ClientApps that are not heard of have failed
    with state.lock_msg_store:
        return any(
            entry.message.metadata.reply_to_message_id and not entry.is_retrieved
            for entry in state.msg_store.values()
        )
