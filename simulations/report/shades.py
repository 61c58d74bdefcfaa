"""The colours of heat maps: one scale from 0 to 1 for all of them, on the page and on paper."""

from __future__ import annotations

from functools import lru_cache

SCALE = "viridis"
"""Matplotlib's name: even steps, readable without telling red from green."""

BRIGHT = 0.5
"""Luminance from which dark text reads better."""


@lru_cache(maxsize=256)
def shade(value: float) -> tuple[str, str]:
    """The background of a value in [0, 1], and the colour of text on it."""
    import matplotlib
    from matplotlib.colors import to_hex

    red, green, blue, _ = matplotlib.colormaps[SCALE](min(max(value, 0.0), 1.0))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return to_hex((red, green, blue)), "#111418" if luminance > BRIGHT else "#ffffff"


def scale(steps: int = 11) -> list[str]:
    """Colours from 0 to 1, for the legend."""
    return [shade(step / (steps - 1))[0] for step in range(steps)]
