"""Compute the values that the page of a sweep shows."""

from __future__ import annotations

from typing import Any

from hqde_fl.clients.objective import ATTACK_SUCCESS
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.seed_groups import ComparisonRow
from hqde_fl.simulations.report.charts import line_chart, shared_limits
from hqde_fl.simulations.report.conditions import MIN_BAND_SEEDS, Condition, conditions
from hqde_fl.simulations.report.heat_colours import is_logarithmic, scale_colours
from hqde_fl.simulations.report.heat_maps import colour_scale, detection_maps, metric_maps
from hqde_fl.simulations.report.ranks_view import ranks_view
from hqde_fl.simulations.report.run_view import Panel
from hqde_fl.simulations.report.scores import LineScore, filtering_lines, line_scores
from hqde_fl.simulations.report.shared_table import shared_table
from hqde_fl.simulations.report.strip_charts import strip_charts
from hqde_fl.simulations.report.worst_maps import worst_attack_maps
from hqde_fl.simulations.statistics.paired import MIN_SEEDS
from hqde_fl.simulations.statistics.samples import METHOD_NAMES
from hqde_fl.strategies.outcomes import UNJUDGED

MAX_TABLE_CONDITIONS = 4
"""Conditions that one table shows as columns; more make heat maps."""

MAX_HALF_PAGE_COLUMNS = 5
"""Columns of a heat map that takes half a page."""

MAX_CLIENT_GRIDS = 12
"""Runs whose clients are all shown; of more runs, only the worst run of each line is."""


def sweep_view(comparison: Comparison) -> dict[str, Any]:
    """Return the values of the template ``sweep.html.md``, and the runs whose clients it shows.

    The runs stand under ``shown``; whether they are only the worst ones, under ``only_worst``.
    """
    all_conditions = conditions(comparison)
    scores, filtering = line_scores(comparison), filtering_lines(comparison)
    begun = [row for row in comparison.rows if row.run is not None]
    only_worst = len(begun) > MAX_CLIENT_GRIDS
    manifests = [row.run.manifest for row in begun if row.run is not None]
    scale = colour_scale(comparison)
    return {
        "scores": scores,
        "filtering": filtering,
        "seeds": max(len(group.rows) for group in comparison.groups),
        "scale": scale,
        "better": "higher" if comparison.objective.higher_is_better() else "lower",
        "method": METHOD_NAMES[comparison.analysis.method],
        "min_seeds": MIN_SEEDS,
        "min_band_seeds": MIN_BAND_SEEDS,
        "ranks": ranks_view(comparison),
        "shared_table": shared_table([m["experiment"] for m in manifests], comparison.axes),
        "first_axis": comparison.compared_axes[0].name if comparison.compared_axes else "",
        "conditions": len(all_conditions),
        "faulty": any(group.faulty for group in comparison.groups),
        "has_table": len(comparison.columns) <= MAX_TABLE_CONDITIONS,
        "metric_maps": worst_attack_maps(comparison)
        + sorted(
            metric_maps(comparison), key=lambda heat: len(heat.columns) <= MAX_HALF_PAGE_COLUMNS
        ),
        "max_half_page_columns": MAX_HALF_PAGE_COLUMNS,
        "scale_colours": scale_colours(),
        "panels": _panels(comparison, all_conditions),
        "detection_maps": detection_maps(comparison),
        "strip_charts": strip_charts(comparison, filtering) if only_worst else [],
        "only_worst": only_worst,
        "shown": _worst_rows(scores) if only_worst else begun,
        "started": min(manifest["started"] for manifest in manifests),
        "ended": max((m["ended"] for m in manifests if m["ended"]), default="\N{EN DASH}"),
        "unjudged": UNJUDGED,
        "occurring": {
            column: occurring_outcomes(comparison, column) for column in comparison.columns
        },
        "occurring_anywhere": [
            name
            for name in UNJUDGED
            if any(name in occurring_outcomes(comparison, column) for column in comparison.columns)
        ],
        "has_detection": {
            column: has_detection(comparison, column) for column in comparison.columns
        },
        "has_success": {
            column: any(
                comparison.group_at(line, column).finals(ATTACK_SUCCESS)
                for line in comparison.lines
            )
            for column in comparison.columns
        },
        "attack_success": ATTACK_SUCCESS,
    }


def has_detection(comparison: Comparison, column: tuple[str, ...]) -> bool:
    """Return True if a column of the table has faulty clients, and a rule that can filter them."""
    groups = [comparison.group_at(line, column) for line in comparison.lines]
    return any(group.faulty and group.filters for group in groups)


def occurring_outcomes(comparison: Comparison, column: tuple[str, ...]) -> list[str]:
    """Return the outcomes among ``UNJUDGED`` that any client had in a column of the table.

    ``column`` has the labels on all axes but the compared one and the seed.
    """
    groups = [comparison.group_at(line, column) for line in comparison.lines]
    return [name for name in UNJUDGED if any(name in g.detection.occurring for g in groups)]


def _worst_rows(scores: list[LineScore]) -> list[ComparisonRow]:
    """Return the worst seed of each score's worst group; scores without one are left out."""
    rows = []
    for score in scores:
        if (group := score.worst) is not None:
            badness = map(group.objective.badness, group.by_seed.values())
            pairs = zip(badness, group.rows, strict=True)
            rows.append(max(pairs, key=lambda pair: pair[0])[1])
    return rows


def _panels(comparison: Comparison, all_conditions: list[Condition]) -> list[Panel]:
    """Return a chart for each metric and condition: the compared metric, and attack success.

    With at most ``MAX_TABLE_CONDITIONS`` conditions there are charts of the loss, too. The charts
    of a metric have the same vertical axis.
    """
    few = len(all_conditions) <= MAX_TABLE_CONDITIONS
    metrics = dict.fromkeys((comparison.metric, *(["loss"] if few else []), ATTACK_SUCCESS))
    panels = []
    for name in metrics:
        curves = [condition.curves(name) for condition in all_conditions]
        bands = [condition.bands(name) for condition in all_conditions]
        values = [
            value
            for lines in curves
            for points in lines.values()
            for _, value in points
            if value is not None
        ]
        log = is_logarithmic(values, comparison.objective.higher_is_better(name))
        ends = [
            e for band in bands for points in band.values() for _, *both in points for e in both
        ]
        limits = shared_limits(values, ends, log=log)
        for condition, lines, band in zip(all_conditions, curves, bands, strict=True):
            if not lines:
                continue
            title = f"{name.replace('-', ' ').capitalize()}: {condition.title}"
            svg = line_chart(
                lines, title, limits=limits, log=log, family=comparison.lines, bands=band
            )
            panels.append(Panel(title + (" (logarithmic)" if log else ""), svg))
    return panels
