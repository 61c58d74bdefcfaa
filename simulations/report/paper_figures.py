"""Draw a sweep's figures into files for a paper: as PDF, its text as text, and as PNG."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import nan
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from hqde_fl.private_files import private
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.report.charts import (
    MAX_LABEL_LINE,
    band_ends,
    chart_style,
    draw_intervals,
    draw_lines,
    end_at_data,
    shared_limits,
)
from hqde_fl.simulations.report.conditions import Condition, conditions
from hqde_fl.simulations.report.heat_colours import (
    COLOUR_MAP,
    ColourScale,
    cell_colours,
    is_logarithmic,
)
from hqde_fl.simulations.report.heat_maps import HeatMap, colour_scale, file_name, metric_maps
from hqde_fl.simulations.report.number_text import deviation_text, metric_text
from hqde_fl.simulations.report.ranks_view import RANK_LABEL, rank_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "figures"
"""Name of the figures' directory, in the sweep's."""

MISSING_COLOUR = "#eceff2"
PNG_DPI = 200
PAPER_COLOURS = (
    "#2a6fdb",
    "#d9730d",
    "#18916a",
    "#8250df",
    "#cf222e",
    "#0e8a9c",
    "#9a6700",
    "#6e7781",
)
_STYLE: Any = {**chart_style("#1b1f24", "#d5dae0"), "pdf.fonttype": 42, "text.parse_math": False}


def write_figures(comparison: Comparison, out: Path) -> list[Path]:
    """Write the figures of a sweep; earlier ones are removed.

    These are its heat maps, the curves of the compared metric with 95 % intervals, the final values
    with 95 % intervals where there are several seeds, and the mean ranks where they are tested.

    Parameters
    ----------
    comparison : Comparison
        The sweep.
    out : Path
        Its directory; the files go to its subdirectory ``figures/``.

    Returns
    -------
    list[Path]
        The files that were written.
    """
    directory = out / FIGURES
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    written, scale, metric = [], colour_scale(comparison), comparison.metric
    for heat in metric_maps(comparison):
        with _figure(*_size(heat)) as f:
            _draw_heat(f, heat, scale, metric)
            written += _save(f, directory / heat.file_name)
    shown = [c for c in conditions(comparison) if c.curves(metric)]
    if shown:
        across = min(4, len(shown))
        down = -(-len(shown) // across)
        with _figure(2.4 * across, 1.7 * down + 0.5) as f:
            _draw_curves(f, shown, comparison, down, across)
            written += _save(f, directory / f"curves-{file_name(metric)}")
        if any(group.interval for condition in shown for group in condition.groups):
            with _figure(2.4 * across + 1.0, down * (0.6 + 0.2 * len(comparison.lines))) as f:
                _draw_finals(f, shown, comparison, down, across)
                written += _save(f, directory / f"final-{file_name(metric)}")
    ranks = comparison.mean_ranks
    if ranks is not None and (intervals := rank_intervals(ranks)):
        with _figure(4.6, 0.7 + 0.25 * len(intervals)) as f:
            axes = f.subplots()
            draw_intervals(axes, intervals, PAPER_COLOURS[0])
            axes.set_xlabel(RANK_LABEL)
            written += _save(f, directory / "mean-ranks")
    return written


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _size(heat: HeatMap) -> tuple[float, float]:
    """Return a figure's width and height in inches, with room for the map's longest labels."""
    beside, below = (max(len(label) for label in names) for names in (heat.lines, heat.columns))
    width = 1.3 + 0.06 * min(beside, MAX_LABEL_LINE) + 0.62 * len(heat.columns)
    return max(3.2, width), 0.6 + 0.04 * min(below, MAX_LABEL_LINE) + 0.3 * len(heat.lines)


def _draw_heat(figure: Figure, heat: HeatMap, scale: ColourScale, metric: str) -> None:
    axes = figure.subplots()
    places = [[nan if c.value is None else c.position for c in row] for row in heat.cells]
    image = axes.imshow(places, cmap=COLOUR_MAP, vmin=0, vmax=1, aspect="auto")
    axes.set_facecolor(MISSING_COLOUR)
    lines = [fill(label, MAX_LABEL_LINE) for label in heat.lines]
    columns = [fill(label, MAX_LABEL_LINE) for label in heat.columns]
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(lines)), lines)
    axes.tick_params(length=0)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    for y, row in enumerate(heat.cells):
        for x, cell in enumerate(row):
            ink = "#000000" if cell.value is None else cell_colours(cell.position)[1]
            text = metric_text(cell.value, 2)
            if cell.deviation is not None:
                text += f"\n\N{PLUS-MINUS SIGN}{deviation_text(cell.deviation, cell.value, 2)}"
            axes.text(x, y, text, ha="center", va="center", color=ink, size=6.5, linespacing=0.95)
    bar = figure.colorbar(image, ax=axes, label=f"final {metric}", pad=0.02, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels([metric_text(scale.value(place), 2) for place in (0, 0.5, 1)])
    bar.outline.set_visible(False)
    axes.set_title(heat.title, size=9, loc="left")


def _draw_curves(
    figure: Figure, shown: list[Condition], comparison: Comparison, down: int, across: int
) -> None:
    from matplotlib.ticker import MaxNLocator

    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    places, metric = [axes for row in grid for axes in row], comparison.metric
    curves = [condition.curves(metric) for condition in shown]
    values = [
        v for lines in curves for points in lines.values() for _, v in points if v is not None
    ]
    log = is_logarithmic(values, comparison.objective.higher_is_better())
    bands = [condition.bands(metric) for condition in shown]
    limits = shared_limits(values, band_ends(bands), log=log)
    for axes, condition, lines, band in zip(places, shown, curves, bands, strict=False):
        draw_lines(axes, lines, PAPER_COLOURS, family=comparison.lines, bands=band)
        end_at_data(axes, lines)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_title(condition.title, size=8, loc="left")
        if log:
            axes.set_yscale("log")
        if limits is not None:
            axes.set_ylim(*limits)
        axes.tick_params(length=0)
    for axes in places[len(shown) :]:
        axes.set_visible(False)
    for axes in places[max(0, len(shown) - across) : len(shown)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("round")
    drawn = [axes.get_legend_handles_labels() for axes in places]
    named = {
        name: line for handles, names in drawn for line, name in zip(handles, names, strict=True)
    }
    ordered = [name for name in comparison.lines if name in named]
    handles = [named[name] for name in ordered]
    places[0].set_ylabel(metric)
    figure.legend(handles, ordered, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _draw_finals(
    figure: Figure, shown: list[Condition], comparison: Comparison, down: int, across: int
) -> None:
    """Draw the mean final value of each line, and its 95 % interval, for each condition."""
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    places = [axes for row in grid for axes in row]
    means = [group.mean for c in shown for group in c.groups if group.mean is not None]
    log = is_logarithmic(means, comparison.objective.higher_is_better())
    ends = [e for c in shown for group in c.groups for e in group.interval or ()]
    limits = shared_limits([*means, *(e for e in ends if e > 0 or not log)], log=log)
    for axes, condition in zip(places, shown, strict=False):
        draw_intervals(
            axes,
            {
                group.labels[0]: (nan, nan, nan)
                if group.mean is None
                else (group.mean, *(group.interval or (group.mean, group.mean)))
                for group in condition.groups
            },
            PAPER_COLOURS[0],
        )
        axes.set_title(condition.title, size=8, loc="left")
        if log:
            axes.set_xscale("log")
        if limits is not None:
            axes.set_xlim(*limits)
    for axes in places[len(shown) :]:
        axes.set_visible(False)
    for axes in places[max(0, len(shown) - across) : len(shown)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(f"final {comparison.metric}")


def _save(figure: Figure, path: Path) -> list[Path]:
    pdf, png = path.with_name(f"{path.name}.pdf"), path.with_name(f"{path.name}.png")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # drawn as a box
        dates = {"CreationDate": None, "Creator": None, "Producer": None}
        with open(pdf, "wb", opener=private) as file:
            figure.savefig(file, format="pdf", metadata=dates)
        with open(png, "wb", opener=private) as file:
            figure.savefig(file, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return [pdf, png]
