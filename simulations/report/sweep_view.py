"""What the page of a sweep shows."""

from __future__ import annotations

from typing import Any

from hqde_fl.simulations.recording.comparison import Comparison, Row
from hqde_fl.simulations.recording.detection import UNJUDGED
from hqde_fl.simulations.report.conditions import Condition, conditions
from hqde_fl.simulations.report.figures import curves
from hqde_fl.simulations.report.run_view import Panel
from hqde_fl.simulations.report.shades import scale, shade
from hqde_fl.simulations.report.strips import strips_of
from hqde_fl.simulations.report.study import Study

MOST_COLUMNS = 4
"""Conditions that one table shows as columns; more make heat maps."""

NARROW = 5
"""Columns of a heat map that takes half a page."""

MOST_RUNS = 12
"""Runs of which all clients are shown; of more, only the worst run of each line."""


def sweep_view(comparison: Comparison) -> dict[str, Any]:
    """What the template needs."""
    study = Study(comparison)
    met = conditions(comparison)
    began = [row for row in comparison.rows if row.run is not None]
    some = len(began) > MOST_RUNS
    manifests = [row.run.manifest for row in began if row.run is not None]
    return {
        "study": study,
        "seeds": max(len(group.rows) for group in comparison.groups),
        "varied": comparison.compared[0].name if comparison.compared else "",
        "conditions": len(met),
        "faulty": any(group.faulty for group in comparison.groups),
        "small": len(comparison.columns) <= MOST_COLUMNS,
        "maps": sorted(study.heat_maps(), key=lambda heat: len(heat.columns) <= NARROW),
        "scale": scale(),
        "shade": shade,
        "panels": _panels(comparison, met),
        "found": study.detection_maps(),
        "strips": strips_of(comparison, study.filters) if some else [],
        "some": some,
        "shown": _worst_rows(study) if some else began,
        "started": min(manifest["started"] for manifest in manifests),
        "ended": max((m["ended"] for m in manifests if m["ended"]), default="\N{EN DASH}"),
        "unjudged": UNJUDGED,
        "happened": {column: happened(comparison, column) for column in comparison.columns},
        "happened_ever": [
            name
            for name in UNJUDGED
            if any(name in happened(comparison, column) for column in comparison.columns)
        ],
        "has_faults": {
            column: any(g.faulty for g in comparison.groups if g.labels[1:] == column)
            for column in comparison.columns
        },
    }


def happened(comparison: Comparison, column: tuple[str, ...]) -> list[str]:
    """Those of ``UNJUDGED`` that happened to a client under a condition."""
    groups = [comparison.at(line, column) for line in comparison.lines]
    return [name for name in UNJUDGED if any(name in g.detection.occurring for g in groups)]


def _worst_rows(study: Study) -> list[Row]:
    """For each line the worst seed of the condition in which it did worst."""
    found = []
    for score in study.scores:
        if score.worst is not None:
            rows = [row for row in score.worst.rows if row.accuracy is not None]
            found.append(min(rows, key=lambda row: row.accuracy or 0.0))
    return found


def _panels(comparison: Comparison, met: list[Condition]) -> list[Panel]:
    """Accuracy, and for few conditions loss and attack success, one line for each line."""
    metrics = ["accuracy"]
    if len(met) <= MOST_COLUMNS:
        metrics.append("loss")
    metrics.append("attack-success")
    panels = []
    for name in metrics:
        limits = None if name == "loss" else (0.0, 1.0)
        for condition in met:
            series = condition.series(name)
            values = [y for points in series.values() for _, y in points if y is not None]
            if not values:
                continue
            title = f"{name.replace('-', ' ').capitalize()}: {condition.title}"
            log = limits is None and min(values) > 0 and max(values) > 20 * min(values)
            svg = curves(
                series,
                title,
                limits=limits,
                log=log,
                fixed=comparison.lines,
                bands=condition.bands(name) if limits else None,
            )
            panels.append(Panel(title + (" (logarithmic)" if log else ""), svg))
    return panels
