"""Draw a sweep's figures into files for a paper: as PDF, its text as text, and as PNG."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.report.charts import chart_style, draw_lines
from hqde_fl.simulations.report.conditions import Condition, conditions
from hqde_fl.simulations.report.heat_colours import COLOUR_MAP, cell_colours
from hqde_fl.simulations.report.heat_maps import HeatMap, accuracy_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "figures"
"""Name of the figures' directory, in the sweep's."""

MISSING_COLOUR = "#eceff2"
PNG_DPI = 200
MAX_LABEL_LINE = 28
"""Characters of one line of a label; a longer label is wrapped."""
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
    """Write the heat maps and the accuracy curves of a sweep; earlier figures are removed.

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
    written = []
    for heat in accuracy_maps(comparison):
        with _figure(*_size(heat)) as f:
            _draw_heat(f, heat)
            written += _save(f, directory / heat.file_name)
    shown = [c for c in conditions(comparison) if c.curves("accuracy")]
    if shown:
        across = min(4, len(shown))
        down = -(-len(shown) // across)
        with _figure(2.4 * across, 1.7 * down + 0.5) as f:
            _draw_curves(f, shown, comparison, down, across)
            written += _save(f, directory / "accuracy")
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


def _draw_heat(figure: Figure, heat: HeatMap) -> None:
    axes = figure.subplots()
    values = [[float("nan") if c.value is None else c.value for c in row] for row in heat.cells]
    image = axes.imshow(values, cmap=COLOUR_MAP, vmin=0, vmax=1, aspect="auto")
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
            ink = "#000000" if cell.value is None else cell_colours(cell.value)[1]
            text = "\N{EN DASH}" if cell.value is None else f"{cell.value:.2f}"
            if cell.spread is not None:
                text += f"\n\N{PLUS-MINUS SIGN}{cell.spread:.2f}"
            axes.text(x, y, text, ha="center", va="center", color=ink, size=6.5, linespacing=0.95)
    figure.colorbar(image, ax=axes, label="final accuracy", pad=0.02).outline.set_visible(False)
    axes.set_title(heat.title, size=9, loc="left")


def _draw_curves(
    figure: Figure, shown: list[Condition], comparison: Comparison, down: int, across: int
) -> None:
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    places = [axes for row in grid for axes in row]
    for axes, condition in zip(places, shown, strict=False):
        draw_lines(
            axes,
            condition.curves("accuracy"),
            PAPER_COLOURS,
            family=comparison.lines,
            bands=condition.bands("accuracy"),
        )
        axes.set_title(condition.title, size=8, loc="left")
        axes.set_ylim(0, 1)
        axes.tick_params(length=0)
    for axes in places[len(shown) :]:
        axes.set_visible(False)
    for axes in places[max(0, len(shown) - across) : len(shown)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("round")
    drawn = [axes.get_legend_handles_labels() for axes in places]
    lines = {
        name: line for handles, names in drawn for line, name in zip(handles, names, strict=True)
    }
    ordered = [name for name in comparison.lines if name in lines]
    handles = [lines[name] for name in ordered]
    figure.legend(handles, ordered, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _save(figure: Figure, path: Path) -> list[Path]:
    pdf, png = path.with_name(f"{path.name}.pdf"), path.with_name(f"{path.name}.png")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # drawn as a box
        figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(png, dpi=PNG_DPI, metadata={"Software": None})
    return [pdf, png]
