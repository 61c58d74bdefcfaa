"""The page of the tour."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from hqde_fl.simulations.report import page_environment
from hqde_fl.simulations.tour.stop import Visited


def tour_page(visited: Sequence[Visited], seconds: float) -> str:
    """Return the page of the tour: a card for each stop.

    Parameters
    ----------
    visited : Sequence[Visited]
        The stops with what they have shown.
    seconds : float
        How long all of them took.
    """
    template = page_environment().get_template("tour.html.md")
    return template.render(
        visited=visited,
        seconds=seconds,
        comparison={"title": "Tour"},
        manifest={"versions": {"hqde-fl": version("hqde-fl")}},
    )
