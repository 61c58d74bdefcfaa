"""Format numbers for tables and pages."""

from __future__ import annotations

from collections.abc import Iterable

from hqde_fl.simulations.statistics.samples import Interval

MISSING = "\N{EN DASH}"
"""Text for a number that does not exist."""

MINUS = "\N{MINUS SIGN}"

MAX_LISTED_CLIENTS = 40


def fixed(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` decimals, or an en dash for None."""
    return MISSING if value is None else f"{value:.{digits}f}"


def metric_text(value: float | None, digits: int = 3) -> str:
    """Return a metric with ``digits`` decimals, or an en dash for None.

    A number from 1000 on, and one that would have no digit but zeros, has significant digits
    instead, where needed with an exponent.
    """
    if value is None:
        return MISSING
    size = abs(value)
    if size and (size >= 1000 or size < 0.5 * 10**-digits):
        text = f"{value:.{digits + 1 if size >= 1000 else 2}g}"
    else:
        text = fixed(value or 0.0, digits)
    return text.replace("-", MINUS, 1) if value < 0 else text


def client_list_text(clients: Iterable[int]) -> str:
    """Return the ids of clients in order: of many, the first ones and the number of the rest."""
    numbers = sorted(clients)
    text = ", ".join(map(str, numbers[:MAX_LISTED_CLIENTS]))
    more = len(numbers) - MAX_LISTED_CLIENTS
    return f"{text} and {more:,} more" if more > 0 else text


def deviation_text(deviation: float, value: float | None, digits: int = 3) -> str:
    """Return a standard deviation with the decimals that its value has in ``metric_text``."""
    if value is not None and metric_text(value, digits) == fixed(value, digits):
        return fixed(deviation, digits)
    return metric_text(deviation, digits)


def byte_text(count: float) -> str:
    """Return a number of bytes with a unit, three digits at least from a kilobyte on."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.{1 if count >= 10 * size else 2}f} {unit}"
    return f"{count:.0f} B"


def second_text(seconds: float) -> str:
    """Return a time of any length with a unit, in three digits: ``41.2 ms``, ``3.21 h``."""
    if seconds < 5e-6:
        return "0 s"
    units = (("h", 3600.0, 1e4), ("min", 60.0, 180.0), ("s", 1.0, 1.0), ("ms", 1e-3, 0.0))
    unit, size = next((unit, size) for unit, size, least in units if seconds >= least)
    amount = seconds / size
    digits = 2 if amount < 9.995 else 1 if amount < 99.95 else 0
    return f"{amount:.{digits}f} {unit}"


def signed(value: float | None) -> str:
    """Return a difference with its sign and three decimals, or an en dash for None."""
    return metric_text(value) if value is None or value < 0 else f"+{metric_text(value)}"


def interval_text(interval: Interval | None, digits: int = 3) -> str:
    """Return an interval as text, ``[0.912, 0.934]``, or nothing for None."""
    if interval is None:
        return ""
    low, high = (metric_text(end, digits) for end in interval)
    return f"[{low}, {high}]"


def p_text(value: float | None) -> str:
    """Return a p-value as text, ``0.016`` or ``< 0.001``, or an en dash for None."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
