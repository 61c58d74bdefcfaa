"""Text of unknown origin, made safe for terminals and logs."""


def printable(text: str, most: int) -> str:
    """The first characters of what somebody else wrote, fit for a terminal and a log."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])
