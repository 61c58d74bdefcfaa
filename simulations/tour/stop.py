"""A stop of the tour: what it shows, and the figure that it measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class TourFigure:
    """The figure that a stop has measured.

    Parameters
    ----------
    value : float
        The number.
    text : str
        A sentence with that number.
    """

    value: float
    text: str


@final
@dataclass(frozen=True)
class TourStop:
    """A component of HQDE at work.

    Parameters
    ----------
    title : str
        Its name.
    happens : str
        What is happening, in one sentence.
    page : str
        The page of the documentation about it.
    measure : Callable[[], TourFigure]
        Lets it work, and returns its figure.
    """

    title: str
    happens: str
    page: str
    measure: Callable[[], TourFigure]


@final
@dataclass(frozen=True)
class Visited:
    """A stop that has been visited.

    Parameters
    ----------
    stop : TourStop
        The stop.
    value : float
        Its figure.
    text : str
        The sentence with the figure.
    seconds : float
        How long it took.
    """

    stop: TourStop
    value: float
    text: str
    seconds: float
