"""The report's charts, drawn by matplotlib: for the page and, in other colours, for paper.

On the page they are SVG with its colours replaced by the page's CSS variables, so that a chart
follows the page into dark mode, and its text is text, in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = Mapping[str, Sequence[tuple[int, float | None]]]
"""Name -> (round, value) points."""

Bands = Mapping[str, Sequence[tuple[int, float, float]]]
"""Name -> (round, least, greatest value) of several seeds."""

COLOURS = 8
"""Different lines that the page has colours for."""

_LINE = [f"#0000{16 + index:02x}" for index in range(COLOURS)]
_INK, _GRID = "#000001", "#000002"
_VARIABLES = {_INK: "var(--muted)", _GRID: "var(--rule)"} | {
    colour: f"var(--c{index})" for index, colour in enumerate(_LINE)
}


def style(ink: str, rule: str) -> dict[str, Any]:
    """Matplotlib's parameters for text and lines in two colours."""
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


def curves(
    series: Series,
    name: str,
    *,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    fixed: Sequence[str] = (),
    bands: Bands | None = None,
) -> str:
    """Lines over the rounds.

    Parameters
    ----------
    series : Mapping[str, Sequence[tuple[int, float | None]]]
        The lines; a value that is missing leaves a gap.
    name : str
        What the values are: the chart's accessible name.
    limits : tuple[float, float], optional
        Of the values.
    log : bool
        Logarithmic values.
    fixed : Sequence[str]
        All lines of a family of charts, so that one line has one colour in all of them.
    bands : Mapping[str, Sequence[tuple[int, float, float]]], optional
        Drawn faintly around the lines.
    """

    def draw(axes: Axes) -> None:
        draw_curves(axes, series, _LINE, fixed=fixed, bands=bands or {})
        if limits is not None:
            axes.set_ylim(*limits)
        if log:
            axes.set_yscale("log")
            axes.minorticks_off()

    return _figure(draw, name)


def draw_curves(
    axes: Axes,
    series: Series,
    colours: Sequence[str],
    *,
    fixed: Sequence[str] = (),
    bands: Bands | None = None,
) -> None:
    """Draw lines into axes, the same line in the same colour as in all charts of its family."""
    few = len(series) <= 3
    for index, (label, points) in enumerate(series.items()):
        place = list(fixed).index(label) if label in fixed else index
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


def bars(series: Series, name: str) -> str:
    """Stacked bars over the rounds."""

    def draw(axes: Axes) -> None:
        bottom: dict[int, float] = {}
        for index, points in enumerate(series.values()):
            rounds = [x for x, _ in points]
            values = [y or 0.0 for _, y in points]
            under = [bottom.get(x, 0.0) for x in rounds]
            axes.bar(rounds, values, bottom=under, color=_LINE[index % COLOURS], width=0.72)
            bottom |= {x: low + y for x, low, y in zip(rounds, under, values, strict=True)}
        axes.grid(False, axis="x")
        axes.set_xlim(left=0.4)

    return _figure(draw, name)


def _figure(draw: Callable[[Axes], None], name: str) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    parameters: Any = {**style(_INK, _GRID), "svg.fonttype": "none", "svg.hashsalt": name}
    with matplotlib.rc_context(parameters):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        draw(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set_xlabel("round")
        return _svg(figure, name)


def _svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    label = name.replace("&", "and").replace('"', "'").replace("<", "(").replace(">", ")")
    return text.replace("<svg", f'<svg class="chart" role="img" aria-label="{label}"', 1)
