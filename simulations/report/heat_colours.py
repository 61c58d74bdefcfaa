"""Colours of heat maps: one scale from 0 to 1 for all maps, on the page and on paper."""

from __future__ import annotations

from functools import lru_cache

COLOUR_MAP = "viridis"
"""A colour map of matplotlib: even steps, readable without telling red from green."""

MIN_BRIGHT_LUMINANCE = 0.5
"""Luminance of a background from which dark text reads better."""


@lru_cache(maxsize=256)
def cell_colours(value: float) -> tuple[str, str]:
    """Return the colours of a heat map's cell: of the background and of the text on it.

    Parameters
    ----------
    value : float
        The cell's value; clipped to [0, 1].
    """
    import matplotlib
    from matplotlib.colors import to_hex

    red, green, blue, _ = matplotlib.colormaps[COLOUR_MAP](min(max(value, 0.0), 1.0))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    bright = luminance > MIN_BRIGHT_LUMINANCE
    return to_hex((red, green, blue)), "#111418" if bright else "#ffffff"


def scale_colours(steps: int = 11) -> list[str]:
    """Return ``steps`` background colours of evenly spaced values from 0 to 1, for the legend."""
    return [cell_colours(step / (steps - 1))[0] for step in range(steps)]
