"""Format numbers for tables and pages."""

from __future__ import annotations


def fixed(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` decimals, or an en dash for None."""
    return "\u2013" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """Return a difference with its sign and three decimals, or an en dash for None."""
    return "\u2013" if value is None else f"{value:+.3f}".replace("-", "\u2212")
