"""Compute the values that the page of a sweep shows."""

from __future__ import annotations

from typing import Any

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.seed_groups import ComparisonRow
from hqde_fl.simulations.report.charts import line_chart
from hqde_fl.simulations.report.conditions import Condition, conditions
from hqde_fl.simulations.report.heat_colours import scale_colours
from hqde_fl.simulations.report.heat_maps import accuracy_maps, detection_maps
from hqde_fl.simulations.report.run_view import Panel
from hqde_fl.simulations.report.scores import LineScore, filtering_lines, line_scores
from hqde_fl.simulations.report.strip_charts import strip_charts
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
    return {
        "scores": scores,
        "filtering": filtering,
        "seeds": max(len(group.rows) for group in comparison.groups),
        "first_axis": comparison.compared_axes[0].name if comparison.compared_axes else "",
        "conditions": len(all_conditions),
        "faulty": any(group.faulty for group in comparison.groups),
        "has_table": len(comparison.columns) <= MAX_TABLE_CONDITIONS,
        "accuracy_maps": sorted(
            accuracy_maps(comparison), key=lambda heat: len(heat.columns) <= MAX_HALF_PAGE_COLUMNS
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
        "has_faults": {
            column: any(g.faulty for g in comparison.groups if g.labels[1:] == column)
            for column in comparison.columns
        },
    }


def occurring_outcomes(comparison: Comparison, column: tuple[str, ...]) -> list[str]:
    """Return the outcomes among ``UNJUDGED`` that any client had in a column of the table.

    ``column`` has the labels on all axes but the first and the seed.
    """
    groups = [comparison.group_at(line, column) for line in comparison.lines]
    return [name for name in UNJUDGED if any(name in g.detection.occurring for g in groups)]


def _worst_rows(scores: list[LineScore]) -> list[ComparisonRow]:
    """Return the worst seed of each score's worst group; scores without one are left out."""
    rows = []
    for score in scores:
        if score.worst is not None:
            finished = [row for row in score.worst.rows if row.accuracy is not None]
            rows.append(min(finished, key=lambda row: row.accuracy or 0.0))
    return rows


def _panels(comparison: Comparison, all_conditions: list[Condition]) -> list[Panel]:
    """Return a chart of accuracy and one of attack success for each condition that has values.

    With at most ``MAX_TABLE_CONDITIONS`` conditions there are charts of the loss, too.
    """
    metrics = ["accuracy"]
    if len(all_conditions) <= MAX_TABLE_CONDITIONS:
        metrics.append("loss")
    metrics.append("attack-success")
    panels = []
    for name in metrics:
        limits = None if name == "loss" else (0.0, 1.0)
        for condition in all_conditions:
            curves = condition.curves(name)
            values = [y for points in curves.values() for _, y in points if y is not None]
            if not values:
                continue
            title = f"{name.replace('-', ' ').capitalize()}: {condition.title}"
            log = limits is None and min(values) > 0 and max(values) > 20 * min(values)
            svg = line_chart(
                curves,
                title,
                limits=limits,
                log=log,
                family=comparison.lines,
                bands=condition.bands(name) if limits else None,
            )
            panels.append(Panel(title + (" (logarithmic)" if log else ""), svg))
    return panels
