"""Draw the results of a sweep as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.seed_groups import SeedGroup
from hqde_fl.simulations.report.number_text import fixed, metric_text, signed
from hqde_fl.simulations.report.scores import filtering_lines, line_scores
from hqde_fl.simulations.report.sweep_view import has_detection, occurring_outcomes
from hqde_fl.strategies.outcomes import UNJUDGED

MAX_COLUMNS = 4
"""Number of conditions that fit side by side on a terminal."""


def results_table(comparison: Comparison, width: int) -> Table:
    """Return a table of the final metric, differences to the baseline, and detection scores.

    The labels of the compared axis make the rows; each combination of labels on the others, a
    condition, makes columns. If that table is too wide, all axes make rows; if there are more than
    ``MAX_COLUMNS`` conditions, it is ``ranking_table``. Values are means over the seeds. Labels
    are ``Text``: rich would take ``[mad, twins]`` in a string for markup, and leave it out.

    Parameters
    ----------
    comparison : Comparison
        The runs.
    width : int
        Width of the terminal in characters.
    """
    if len(comparison.columns) > MAX_COLUMNS:
        return ranking_table(comparison)
    table = _side_by_side(comparison)
    fits = Console(width=10 * width).measure(table).maximum <= width
    return table if fits else _one_below_the_other(comparison)


def _side_by_side(comparison: Comparison) -> Table:
    """Return a table with a row per line, and columns for the labels on the other axes."""
    table = _finals(comparison)
    varied = comparison.compared_axes[0].name if comparison.compared_axes else ""
    table.add_column(Text(f"\n{varied}"), no_wrap=True)
    filtered = {column: has_detection(comparison, column) for column in comparison.columns}
    several = len(comparison.lines) > 1
    for column in comparison.columns:
        head = Text(f"{', '.join(column) or 'all'}\n{comparison.metric}")
        table.add_column(head, justify="right", no_wrap=True)
        if several:
            table.add_column("\nΔ", justify="right", no_wrap=True)
        if filtered[column]:
            table.add_column("\nfiltered", justify="right", no_wrap=True)
        for name in occurring_outcomes(comparison, column):
            table.add_column(f"\n{name}", justify="right", no_wrap=True)
    for line in comparison.lines:
        cells: list[Text | str] = [Text(line)]
        for column in comparison.columns:
            row = comparison.group_at(line, column)
            cells += _cells(comparison, row)
            if filtered[column]:
                cells.append(_filtered(row))
            cells += [
                str(row.detection.unjudged[name]) for name in occurring_outcomes(comparison, column)
            ]
        table.add_row(*cells)
    return table


def _one_below_the_other(comparison: Comparison) -> Table:
    """Return a table with a row for each combination of labels on all axes but the seed."""
    table = _finals(comparison)
    for axis in comparison.compared_axes:
        table.add_column(Text(axis.name), overflow="fold")
    unjudged = _happened_ever(comparison)
    filters = _filters_ever(comparison)
    differences = ["Δ"] if len(comparison.lines) > 1 else []
    for name in (comparison.metric, *differences, *(["filtered"] if filters else []), *unjudged):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for line in comparison.lines:
        for column in comparison.columns:
            row = comparison.group_at(line, column)
            filtered = [_filtered(row) if row.faulty else ""] if filters else []
            counts = [str(row.detection.unjudged[name]) for name in unjudged]
            table.add_row(*map(Text, (line, *column)), *_cells(comparison, row), *filtered, *counts)
    return table


def _finals(comparison: Comparison) -> Table:
    caption = f"{_direction(comparison)}\n{_spread(comparison)}"
    if len(comparison.lines) > 1:
        caption += (
            f"\nΔ: difference to “{comparison.baseline_line}” under the same condition, "
            "seed by seed"
        )
    return Table(
        title=Text(f"Final {comparison.metric}"),
        title_justify="left",
        title_style="bold",
        caption=Text(f"{caption}{_meaning(comparison, '')}"),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )


def ranking_table(comparison: Comparison) -> Table:
    """Return a table with a row for each line, ranked by its value under its worst condition.

    A condition is a combination of labels on the other axes. The best comes first; lines with
    conditions that are not complete come last.
    """
    caption = f"{_direction(comparison)}\n{_spread(comparison)}"
    table = Table(
        title=Text(f"Final {comparison.metric}, ranked by the worst case"),
        title_justify="left",
        title_style="bold",
        caption=Text(f"{caption}{_meaning(comparison, ' with faults')}"),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column(Text(comparison.compared_axes[0].name), overflow="fold")
    table.add_column("worst", justify="right", no_wrap=True)
    table.add_column("under", overflow="fold")
    unjudged, filters = _happened_ever(comparison), _filters_ever(comparison)
    for name in ("mean", "clean", *(["filtered"] if filters else []), *unjudged):
        table.add_column(name, justify="right", no_wrap=True)
    filtering = filtering_lines(comparison)
    for score in line_scores(comparison):
        worst = score.worst
        under = ", ".join(worst.labels[1:] if worst else ())
        shares = [_shares(score.detection, score.line in filtering)] if filters else []
        table.add_row(
            Text(score.line),
            metric_text(None) if worst is None else _value(worst),
            Text("\n".join(filter(None, (under, score.incomplete)))),
            metric_text(score.mean),
            metric_text(score.clean),
            *shares,
            *(str(score.unjudged[name]) for name in unjudged),
        )
    return table


def _cells(comparison: Comparison, group: SeedGroup) -> list[Text | str]:
    """Return a group's value or status and, if there are several lines, its difference."""
    value = _value(group) if group.complete else Text(group.status, style="red")
    if len(comparison.lines) == 1:
        return [value]
    difference = comparison.difference(group) if group.complete else None
    text = "" if difference is None else signed(difference.mean)
    return [value, Text(text, style="red" if comparison.is_worse(difference) else "dim")]


def _value(group: SeedGroup) -> str:
    """Return a group's mean, and its standard deviation if it has several seeds."""
    if group.deviation is None:
        return metric_text(group.mean)
    return f"{metric_text(group.mean)} ±{metric_text(group.deviation)}"


def _direction(comparison: Comparison) -> str:
    better = "higher" if comparison.objective.higher_is_better() else "lower"
    return f"{comparison.metric} on the server's test set: {better} is better"


def _spread(comparison: Comparison) -> str:
    """Return what the numbers are: means over the seeds, and what ± is."""
    seeds = max(len(group.rows) for group in comparison.groups)
    if seeds == 1:
        return "one seed"
    return f"mean over {seeds} seeds ± standard deviation"


def _filters_ever(comparison: Comparison) -> bool:
    return any(has_detection(comparison, column) for column in comparison.columns)


def _filtered(group: SeedGroup) -> str:
    return _shares(group.detection, group.filters)


def _shares(detection: Detection, filters: bool) -> str:
    """Return ``precision / recall`` as text, or one dash if ``filters`` is False."""
    return (
        f"{fixed(detection.precision, 2)} / {fixed(detection.recall, 2)}"
        if filters
        else fixed(None)
    )


def _happened_ever(comparison: Comparison) -> list[str]:
    outcomes = [occurring_outcomes(comparison, column) for column in comparison.columns]
    return [name for name in UNJUDGED if any(name in names for names in outcomes)]


def _meaning(comparison: Comparison, where: str) -> str:
    """Return the lines of the caption that explain the columns about clients.

    ``where`` follows "rounds". It is empty if there are no such columns.
    """
    text = ""
    if _filters_ever(comparison):
        text += (
            "\nfiltered: precision / recall of the rule's decisions, over clients and "
            f"rounds{where}"
            "\nan attacker counts only in the rounds in which its fault acts"
            f"\n{fixed(None)}: the rule filters nobody, or had nobody to judge"
        )
    if names := _happened_ever(comparison):
        text += f"\n{', '.join(names)}: clients, faulty / honest, whose update it never judged"
    return text
