"""Format numbers for tables and pages."""

from __future__ import annotations


def fixed(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` decimals, or an en dash for None."""
    return "\u2013" if value is None else f"{value:.{digits}f}"


def byte_text(count: int) -> str:
    """Return a number of bytes with a unit, three digits at least from a kilobyte on."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.{1 if count >= 10 * size else 2}f} {unit}"
    return f"{count} B"


def signed(value: float | None) -> str:
    """Return a difference with its sign and three decimals, or an en dash for None."""
    return "\u2013" if value is None else f"{value:+.3f}".replace("-", "\u2212")
