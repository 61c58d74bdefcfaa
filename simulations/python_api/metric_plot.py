"""Draw a metric over the rounds as a figure for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.report.charts import draw_lines
from hqde_fl.simulations.report.conditions import conditions
from hqde_fl.simulations.report.paper_figures import PAPER_COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PANELS_ACROSS = 3

PANEL_INCHES = (4.2, 2.8)
"""Width and height of a panel."""


def plot_metric(comparison: Comparison, metric: str | None = None) -> Figure:
    """Return a figure with a panel for each condition, and a line for each compared value.

    Parameters
    ----------
    comparison : Comparison
        A run or the runs of a sweep.
    metric : str, optional
        A metric of the server; the compared one if not given.

    Raises
    ------
    ConfigError
        If the server did not measure the metric, or no round is recorded.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    metric = metric or comparison.metric
    if not comparison.metrics:
        raise ConfigError(f"{comparison.title} has no metrics of the server to plot")
    if metric not in comparison.metrics:
        raise UnknownNameError("metric of the server", metric, comparison.metrics)
    shown = [condition for condition in conditions(comparison) if condition.curves(metric)]
    across = min(MAX_PANELS_ACROSS, len(shown))
    down = -(-len(shown) // across)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat
    for axes, condition in zip(panels, shown, strict=False):
        curves = condition.curves(metric)
        bands = condition.bands(metric)
        draw_lines(axes, curves, PAPER_COLOURS, family=comparison.lines, bands=bands)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(True, linewidth=0.4)
        axes.set_title(condition.title if comparison.axes else comparison.title, fontsize=9)
        axes.set_xlabel("round")
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.supylabel(metric, fontsize=10)
    if len(comparison.lines) > 1:
        lines = {
            str(line.get_label()): line
            for axes in panels[: len(shown)]
            for line in axes.get_lines()
        }
        names = [name for name in comparison.lines if name in lines]
        figure.legend(
            [lines[name] for name in names], names, loc="outside lower center", ncols=4, fontsize=8
        )
    return figure
