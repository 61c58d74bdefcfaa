"""Read lists of integers in options of commands."""

from __future__ import annotations

from hqde_fl.errors import ConfigError


def integer_list(text: str, option: str, meaning: str) -> tuple[int, ...]:
    """Return the integers in a text such as ``3,5``; none in an empty one.

    Parameters
    ----------
    text : str
        The text.
    option : str
        The option, for the message.
    meaning : str
        What the integers are, with an example.

    Raises
    ------
    ConfigError
        If the text is no such list.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{option} must be {meaning}, found {text!r}") from None
