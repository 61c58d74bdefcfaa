"""Make text of unknown origin safe for terminals and logs."""

from __future__ import annotations

MAX_REASON_LENGTH = 500
"""Largest number of characters of an error's message that is passed on."""


def printable(text: str, max_length: int) -> str:
    """Return the first ``max_length`` characters of a text, unprintable ones escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:max_length])


def describe_error(error: BaseException | str) -> str:
    """Return an exception's type and message, or a text, as one printable line that may be cut."""
    if isinstance(error, BaseException):
        try:
            message = str(error)
        except Exception:  # it is somebody's own method
            message = ""
        error = f"{type(error).__name__}: {message}" if message.strip() else type(error).__name__
    return printable(" ".join(error.split()), MAX_REASON_LENGTH)
