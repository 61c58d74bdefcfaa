"""A fault whose own code fails is a failed run, not a faulty client: how client and server say so.

The client cannot end a run. It raises a ``FaultError``, which travels as any exception does, as the
reason of an error reply; the server knows who has which fault, and looks for just that sentence.
"""

from __future__ import annotations

from hqde_fl.errors import HQDEError
from hqde_fl.terminal_text import printable

MAX_REASON_LENGTH = 500
"""Characters of an error's message that are passed on."""


class FaultError(HQDEError, RuntimeError):
    """A fault could not act: an exception in its own code."""


def failure_text(name: str, client: int, server_round: int, error: BaseException | str) -> str:
    """The sentence that says that a client's fault failed."""
    return f"{_beginning(name, client, server_round)}{describe_error(error)}"


def find_failure(reason: str, name: str, client: int, server_round: int) -> str | None:
    """The sentence that ``failure_text`` made, in the reason of an error reply; None if it is not there.

    Parameters
    ----------
    reason : str
        The whole reason: a traceback, or whatever the engine makes of an exception.
    name, client, server_round
        Of the fault that this client has in this round; the sentence has to be about it.
    """
    begin = reason.rfind(_beginning(name, client, server_round))
    if begin < 0:
        return None
    line = reason[begin:].splitlines()[0]
    if reason.lstrip().startswith("<class '"):  # Flower's: <class 'X'>:<'message'>
        line = line.removesuffix("'>")
    return printable(line, 2 * MAX_REASON_LENGTH)


def describe_error(error: BaseException | str) -> str:
    """An exception in one line, with its type; a text as it is."""
    if isinstance(error, BaseException):
        error = f"{type(error).__name__}: {error}"
    return printable(" ".join(error.split()), MAX_REASON_LENGTH)


def _beginning(name: str, client: int, server_round: int) -> str:
    return f"fault {name!r} of client {client} failed in round {server_round}: "
