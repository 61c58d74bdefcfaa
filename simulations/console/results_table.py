"""Draw the results of a sweep as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.seed_groups import SeedGroup
from hqde_fl.simulations.report.number_text import fixed, signed
from hqde_fl.simulations.report.scores import filtering_lines, line_scores
from hqde_fl.simulations.report.sweep_view import occurring_outcomes
from hqde_fl.strategies.outcomes import UNJUDGED

MAX_COLUMNS = 4
"""Number of conditions that fit side by side on a terminal."""

MARKED_DIFFERENCE = -0.05
"""A difference in accuracy below this is shown in red."""


def results_table(comparison: Comparison, width: int) -> Table:
    """Return a table of final accuracies, differences to the baseline, and detection scores.

    The labels of the first axis make the rows; each combination of labels on the others, a
    condition, makes columns. If that table is too wide, all axes make rows; if there are more than
    ``MAX_COLUMNS`` conditions, it is ``ranking_table``. Accuracies are means over the seeds. Labels
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
    """Return a table with a row per label on the first axis, and columns for those on others."""
    table = _accuracies(comparison)
    varied = comparison.compared_axes[0].name if comparison.compared_axes else ""
    table.add_column(Text(f"\n{varied}"), no_wrap=True)
    filtered = {column: _has_faults(comparison, column) for column in comparison.columns}
    for column in comparison.columns:
        head = Text(f"{', '.join(column) or 'all'}\naccuracy")
        table.add_column(head, justify="right", no_wrap=True)
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
    table = _accuracies(comparison)
    for axis in comparison.compared_axes:
        table.add_column(Text(axis.name), overflow="fold")
    unjudged = _happened_ever(comparison)
    for name in ("accuracy", "Δ", "filtered", *unjudged):
        table.add_column(name, justify="right", no_wrap=True)
    for line in comparison.lines:
        for column in comparison.columns:
            row = comparison.group_at(line, column)
            filtered = _filtered(row) if row.faulty else ""
            counts = [str(row.detection.unjudged[name]) for name in unjudged]
            table.add_row(*map(Text, (line, *column)), *_cells(comparison, row), filtered, *counts)
    return table


def _accuracies(comparison: Comparison) -> Table:
    baseline = ", ".join(comparison.baseline.labels)
    return Table(
        title="Final accuracy",
        title_justify="left",
        title_style="bold",
        caption=Text(f"Δ: difference to “{baseline}”\n{_meaning(comparison, '')}"),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )


def ranking_table(comparison: Comparison) -> Table:
    """Return a table with a row for each label of the first axis, ranked by its worst accuracy.

    The worst is taken over all combinations of labels on the other axes. The highest comes first;
    labels with cells that failed or did not run come last.
    """
    table = Table(
        title="Ranked by the worst case",
        title_justify="left",
        title_style="bold",
        caption=_meaning(comparison, " with faults"),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column(Text(comparison.compared_axes[0].name), overflow="fold")
    table.add_column("worst", justify="right", no_wrap=True)
    table.add_column("under", overflow="fold")
    unjudged = _happened_ever(comparison)
    for name in ("mean", "clean", "filtered", *unjudged):
        table.add_column(name, justify="right", no_wrap=True)
    filtering = filtering_lines(comparison)
    for score in line_scores(comparison):
        worst = score.worst
        table.add_row(
            Text(score.line),
            fixed(None if worst is None else worst.accuracy),
            f"{score.missing} failed or not run"
            if score.missing
            else Text(", ".join(worst.labels[1:] if worst else ())),
            fixed(score.mean),
            fixed(score.clean),
            _shares(score.detection, score.line in filtering),
            *(str(score.unjudged[name]) for name in unjudged),
        )
    return table


def _has_faults(comparison: Comparison, column: tuple[str, ...]) -> bool:
    return any(comparison.group_at(line, column).faulty for line in comparison.lines)


def _cells(comparison: Comparison, group: SeedGroup) -> list[Text | str]:
    if group.accuracy is None:
        return [Text(group.status, style="red"), ""]
    difference = comparison.difference(group)
    bad = difference is not None and difference < MARKED_DIFFERENCE
    return [fixed(group.accuracy), Text(signed(difference), style="red" if bad else "dim")]


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
    """Return the caption that explains the columns about clients; ``where`` follows "rounds"."""
    text = (
        f"filtered: precision / recall of the rule's decisions, over clients and rounds{where}\n"
        f"{fixed(None)}: the rule filters nobody, or had nobody to judge"
    )
    if names := _happened_ever(comparison):
        text += f"\n{', '.join(names)}: clients, faulty / honest, whose update it never judged"
    return text
