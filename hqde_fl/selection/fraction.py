"""The number of clients that a fraction of the available ones is."""

from __future__ import annotations

from hqde_fl.errors import ConfigError


def check_fraction(owner: str, fraction: float) -> None:
    """Raise ``ConfigError`` unless a selector's fraction is in (0, 1]."""
    if not 0 < fraction <= 1:
        raise ConfigError(f"{owner}.fraction must be in (0, 1], found {fraction}")


def fraction_size(fraction: float, available: int) -> int:
    """Return a fraction of the available clients, rounded, at least 1; 0 if none is available."""
    return min(available, max(1, round(fraction * available)))
