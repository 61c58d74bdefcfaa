"""Let the monitor record what a client's call of an engine takes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from hqde_fl.monitor.spans import EVALUATE, TRAIN, client_call


def monitored_call(partition: int, kind: str, group: str) -> AbstractContextManager[None]:
    """Return a context in which a client answers a message; its phases are recorded.

    Messages of other kinds than training and evaluation are not recorded.

    Parameters
    ----------
    partition : int
        The client's partition id.
    kind, group : str
        The message's type and group id, which names the round.
    """
    task = kind.partition(".")[0]
    if task not in (TRAIN, EVALUATE):
        return nullcontext()
    return client_call(monitored_round(group), partition, task)


def monitored_round(group: str) -> int | None:
    """Return the round that a message's group id names; None if it names none."""
    return int(group) if group.isascii() and group.isdigit() else None
