"""Make text of unknown origin safe for terminals and logs."""


def printable(text: str, max_length: int) -> str:
    """Return the first ``max_length`` characters of a text, unprintable ones escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:max_length])
