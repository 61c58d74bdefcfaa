"""Colours of heat maps: one scale for all maps of a metric, its bright end the better one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log10

COLOUR_MAP = "viridis"
"""A colour map of matplotlib: even steps, readable without telling red from green."""

MIN_BRIGHT_LUMINANCE = 0.5
"""Luminance of a background from which dark text reads better."""

MAX_LINEAR_RATIO = 20
"""Ratio of the greatest to the least value from which a scale is logarithmic."""


@dataclass(frozen=True)
class ColourScale:
    """The place of a metric's values between the worst (0) and the best (1) of a scale.

    Parameters
    ----------
    low, high : float
        The least and the greatest value.
    higher_is_better : bool
        True if the greatest value is the best.
    logarithmic : bool
        True if equal ratios are equal distances.
    """

    low: float
    high: float
    higher_is_better: bool = True
    logarithmic: bool = False

    @classmethod
    def of(cls, values: Iterable[float], higher_is_better: bool) -> ColourScale:
        """Return the scale of some values.

        It reaches from 0 to 1 for values in [0, 1] of a metric that is better if it is higher, such
        as an accuracy, and else from the least to the greatest value.
        """
        values = list(values)
        if not values or (higher_is_better and min(values) >= 0 and max(values) <= 1):
            return cls(0.0, 1.0, higher_is_better)
        low, high = min(values), max(values)
        return cls(low, high, higher_is_better, is_logarithmic(values, higher_is_better))

    @property
    def worst(self) -> float:
        """The value at the dark end."""
        return self.low if self.higher_is_better else self.high

    @property
    def best(self) -> float:
        """The value at the bright end."""
        return self.high if self.higher_is_better else self.low

    def position(self, value: float) -> float:
        """Return the place of a value, in [0, 1]; 1 where all values are the same."""
        if self.high <= self.low:
            return 1.0
        low, high, place = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, place = log10(low), log10(high), log10(place)
        rising = (place - low) / (high - low)
        return rising if self.higher_is_better else 1.0 - rising

    def value(self, position: float) -> float:
        """Return the value at a place in [0, 1]."""
        rising = position if self.higher_is_better else 1.0 - position
        if self.logarithmic:
            return float(self.low * (self.high / self.low) ** rising)
        return self.low + rising * (self.high - self.low)


def is_logarithmic(values: Sequence[float], higher_is_better: bool) -> bool:
    """Return True if values are shown on a logarithmic scale.

    That are positive values of a metric that is better if it is lower, such as an error, if the
    greatest is ``MAX_LINEAR_RATIO`` times the least or more.
    """
    if higher_is_better or not values or min(values) <= 0:
        return False
    return max(values) >= MAX_LINEAR_RATIO * min(values)


@lru_cache(maxsize=256)
def cell_colours(position: float) -> tuple[str, str]:
    """Return the colours of a heat map's cell: of the background and of the text on it.

    Parameters
    ----------
    position : float
        The cell's place on its scale; clipped to [0, 1].
    """
    import matplotlib
    from matplotlib.colors import to_hex

    red, green, blue, _ = matplotlib.colormaps[COLOUR_MAP](min(max(position, 0.0), 1.0))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    bright = luminance > MIN_BRIGHT_LUMINANCE
    return to_hex((red, green, blue)), "#111418" if bright else "#ffffff"


def scale_colours(steps: int = 11) -> list[str]:
    """Return ``steps`` background colours of evenly spaced places from 0 to 1, for the legend."""
    return [cell_colours(step / (steps - 1))[0] for step in range(steps)]
