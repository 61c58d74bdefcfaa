"""Draw line and bar charts with matplotlib: as SVG for the page, and into axes for paper.

On the page a chart uses the page's CSS variables as its colours, so that it follows the page into
dark mode, and its text is text, in the page's own font.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isnan, nan
from statistics import fmean
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Series = Mapping[str, Sequence[tuple[int, float | None]]]
"""The (round, value) points of each line, by its label; a value of None leaves a gap."""

Bands = Mapping[str, Sequence[tuple[int, float, float]]]
"""The (round, low, high) ends of intervals over several seeds, by the label of their line."""

MAX_LABEL_LINE = 28
"""Characters of one line of a label; a longer label is wrapped."""

MAX_BARS = 120
"""Bars of a chart at most."""

PAGE_COLOURS = 8
"""Number of line colours that the page's style sheet has."""

# placeholders, which no chart uses otherwise
_LINE_COLOURS = [f"#0000{16 + index:02x}" for index in range(PAGE_COLOURS)]
_INK, _GRID = "#000001", "#000002"
_VARIABLES = {_INK: "var(--muted)", _GRID: "var(--rule)"} | {
    colour: f"var(--c{index})" for index, colour in enumerate(_LINE_COLOURS)
}


def chart_style(ink: str, rule: str) -> dict[str, Any]:
    """Return matplotlib's parameters for text in colour ``ink``, axes and grid in ``rule``."""
    return {
        "axes.edgecolor": rule,
        "axes.grid": True,
        "axes.labelcolor": ink,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 9,
        "grid.color": rule,
        "grid.linewidth": 0.6,
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
    }


def line_chart(
    series: Series,
    name: str,
    *,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    family: Sequence[str] = (),
    bands: Bands | None = None,
) -> str:
    """Return a chart of lines over the rounds, as an SVG element.

    Parameters
    ----------
    series : Mapping[str, Sequence[tuple[int, float | None]]]
        The lines; a value that is missing leaves a gap.
    name : str
        The chart's accessible name.
    limits : tuple[float, float], optional
        Ends of the vertical axis; by default those of the lines and bands.
    log : bool, default=False
        Whether the vertical axis is logarithmic.
    family : Sequence[str], optional
        The labels of all lines of a family of charts, so that a line has one colour in all of them.
    bands : Mapping[str, Sequence[tuple[int, float, float]]], optional
        Intervals drawn faintly around the lines.
    """

    def draw(axes: Axes) -> None:
        draw_lines(axes, series, _LINE_COLOURS, family=family, bands=bands or {})
        end_at_data(axes, series)
        if limits is not None:
            axes.set_ylim(*limits)
        if log:
            axes.set_yscale("log")
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # not TeX

    return _figure(draw, name)


def time_chart(
    series: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    name: str,
    xlabel: str,
    *,
    limits: tuple[float, float] | None = None,
) -> str:
    """Return a chart of lines over time, from 0 on, as an SVG element.

    Parameters
    ----------
    series : Mapping[str, tuple[numpy.ndarray, numpy.ndarray]]
        Label -> (times, values).
    name : str
        The chart's accessible name.
    xlabel : str
        The name of the times.
    limits : tuple[float, float], optional
        Ends of the vertical axis; by default 0 and the greatest value.
    """

    def draw(axes: Axes) -> None:
        for index, (times, values) in enumerate(series.values()):
            colour = _LINE_COLOURS[index % PAGE_COLOURS]
            style = ("-", "--", ":")[index // PAGE_COLOURS % 3]
            axes.plot(times, values, color=colour, linestyle=style, linewidth=1.2)
        ends = [times[-1] for times, _ in series.values() if len(times)]
        axes.set_xlim(0, max([*ends, 1e-9]))
        axes.set_ylim(*(limits or (0, None)))
        axes.set_xlabel(xlabel)

    return _figure(draw, name, rounds=False)


def draw_lines(
    axes: Axes,
    series: Series,
    colours: Sequence[str],
    *,
    family: Sequence[str] = (),
    bands: Bands | None = None,
) -> None:
    """Draw lines, and bands around them, into axes.

    A line whose label is in ``family`` has the colour of its place there, another one that of its
    place in ``series``.
    """
    few = len(series) <= 3
    for index, (label, points) in enumerate(series.items()):
        place = list(family).index(label) if label in family else index
        colour = colours[place % len(colours)]
        axes.plot(
            [x for x, _ in points],
            [nan if y is None else y for _, y in points],
            color=colour,
            linestyle=("-", "--", ":")[place // len(colours) % 3],
            marker="o" if few and len(points) <= 30 else "",
            markersize=2.6,
            linewidth=1.7 if few else 1.3,
            clip_on=False,
            label=label,
        )
        if band := (bands or {}).get(label):
            rounds, low, high = zip(*band, strict=True)
            axes.fill_between(rounds, low, high, color=colour, alpha=0.13, linewidth=0)


def end_at_data(axes: Axes, series: Series) -> None:
    """End the horizontal axis at the first and the last round of the lines."""
    rounds = [x for points in series.values() for x, _ in points]
    if rounds and min(rounds) < max(rounds):
        axes.set_xlim(min(rounds), max(rounds))


def shared_limits(
    values: Sequence[float], intervals: Sequence[float] = (), *, log: bool = False
) -> tuple[float, float] | None:
    """Return the ends of a vertical axis on which several charts show their values.

    Parameters
    ----------
    values : Sequence[float]
        All values of all charts.
    intervals : Sequence[float]
        The ends of their intervals. Longer ones than the range of the values are cut: that of three
        seeds would make the lines flat.
    log : bool, default=False
        True if the axis is logarithmic.

    Returns
    -------
    tuple[float, float] or None
        The least and the greatest of them, with a margin, but not below 0 or above 1 if no value
        is; None without values.
    """
    if not values:
        return None
    least, greatest = min(values), max(values)
    if log:
        ends = [math.log(value) for value in intervals if value > 0]
        low, high = _reach(math.log(least), math.log(greatest), ends)
        return math.exp(low), math.exp(high)
    low, high = _reach(least, greatest, intervals)
    return (
        max(0.0, low) if least >= 0 else low,
        min(1.0, high) if greatest <= 1 else high,
    )


def band_ends(bands: Iterable[Bands]) -> list[float]:
    """Return the ends of all intervals of several charts."""
    return [
        end for band in bands for points in band.values() for _, *ends in points for end in ends
    ]


def _reach(low: float, high: float, ends: Sequence[float]) -> tuple[float, float]:
    """Return a range that has room for ends outside, up to as much as it is long, and a margin."""
    length = high - low
    margin = 0.04 * length or 0.02 * (abs(high) or 1.0)
    return (
        max(min(low, *ends, low), low - length) - margin,
        min(max(high, *ends, high), high + length) + margin,
    )


def bar_chart(series: Series, name: str) -> str:
    """Return a chart of stacked bars over the rounds, as an SVG element; None counts as 0.

    More than ``MAX_BARS`` rounds are put together: a bar is then the mean of several.
    """
    per_bar = max([1, *(-(-len(points) // MAX_BARS) for points in series.values())])

    def draw(axes: Axes) -> None:
        bottom: dict[float, float] = {}
        for index, points in enumerate(series.values()):
            groups = [points[at : at + per_bar] for at in range(0, len(points), per_bar)]
            rounds = [fmean(x for x, _ in group) for group in groups]
            values = [fmean(y or 0.0 for _, y in group) for group in groups]
            below = [bottom.get(x, 0.0) for x in rounds]
            colour = _LINE_COLOURS[index % PAGE_COLOURS]
            axes.bar(rounds, values, bottom=below, color=colour, width=0.72 * per_bar)
            bottom |= {x: low + y for x, low, y in zip(rounds, below, values, strict=True)}
        axes.grid(False, axis="x")
        half = per_bar / 2
        axes.set_xlim(min(bottom, default=1) - half, max(bottom, default=1) + half)

    return _figure(draw, name)


def interval_chart(points: Mapping[str, tuple[float, float, float]], name: str, xlabel: str) -> str:
    """Return a chart of points with intervals, one line below the other, as an SVG element.

    Parameters
    ----------
    points : Mapping[str, tuple[float, float, float]]
        Label -> (value, low, high).
    name : str
        The chart's accessible name.
    xlabel : str
        The name of the values.
    """

    def draw(axes: Axes) -> None:
        draw_intervals(axes, points, _LINE_COLOURS[0])
        axes.set_xlabel(xlabel)

    return _figure(draw, name, height=0.7 + 0.27 * len(points), rounds=False)


def draw_intervals(
    axes: Axes, points: Mapping[str, tuple[float, float, float]], colour: str
) -> None:
    """Draw points with intervals (value, low, high) into axes, the first label at the top."""
    for place, (value, low, high) in enumerate(points.values()):
        axes.plot([low, high], [place, place], color=colour, linewidth=1.0, marker="|")
        axes.plot([value], [place], color=colour, marker="o", markersize=2.8, clip_on=False)
    axes.set_yticks(range(len(points)), [fill(label, MAX_LABEL_LINE) for label in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    ends = [end for _, low, high in points.values() for end in (low, high) if not isnan(end)]
    if ends and min(ends) < max(ends):
        axes.set_xlim(min(ends), max(ends))
    axes.grid(False, axis="y")
    axes.tick_params(length=0, pad=6)


def _figure(
    draw: Callable[[Axes], None], name: str, *, height: float = 2.5, rounds: bool = True
) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    parameters: Any = {**chart_style(_INK, _GRID), "svg.fonttype": "none", "svg.hashsalt": name}
    parameters["text.parse_math"] = False
    with matplotlib.rc_context(parameters):
        figure = Figure(figsize=(4.6, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        draw(axes)
        if rounds:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            axes.set_xlabel("round")
        return _svg(figure, name)


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element in the page's colours, with ``name`` for screen readers."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has more fonts
        metadata = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    label = name.replace("&", "and").replace('"', "'").replace("<", "(").replace(">", ")")
    return text.replace("<svg", f'<svg class="chart" role="img" aria-label="{label}"', 1)
