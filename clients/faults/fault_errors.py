"""The error of a fault whose own code fails, written by the client and recognised by the server.

It must end the run, and not pass for the failure of a faulty client. The client cannot end a run:
it raises a ``FaultError``, which reaches the server as the reason of an error reply. The server
knows which client has which fault and searches the reason for exactly that sentence.
"""

from __future__ import annotations

from hqde_fl.errors import HQDEError
from hqde_fl.terminal_text import MAX_REASON_LENGTH, describe_error, printable


class FaultError(HQDEError, RuntimeError):
    """An exception in a fault's own code."""


def failure_text(name: str, client: int, server_round: int, error: BaseException | str) -> str:
    """Return the line that names a client's fault, the client, the round and the fault's error."""
    return f"{_prefix(name, client, server_round)}{describe_error(error)}"


def find_failure(reason: str, name: str, client: int, server_round: int) -> str | None:
    """Return the line of ``failure_text`` in the reason of an error reply; None if absent.

    Parameters
    ----------
    reason : str
        The whole reason: a traceback, or the engine's own report of an exception.
    name : str
        Name of the client's fault in this round.
    client, server_round : int
        The client's partition id and the round, which the line must name.
    """
    begin = reason.rfind(_prefix(name, client, server_round))
    if begin < 0:
        return None
    line = reason[begin:].splitlines()[0]
    if reason.lstrip().startswith("<class '"):  # Flower's: <class 'X'>:<'message'>
        line = line.removesuffix("'>")
    return printable(line, 2 * MAX_REASON_LENGTH)


def _prefix(name: str, client: int, server_round: int) -> str:
    return f"fault {name!r} of client {client} failed in round {server_round}: "
