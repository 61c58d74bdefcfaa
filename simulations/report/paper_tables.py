"""Write a sweep's results as tables for a paper: LaTeX (booktabs), Markdown, and statistics as CSV.

``results.tex`` and ``results.md`` have the lines that are compared as rows and the conditions as
columns, or the worst case and the means if the conditions are many. ``statistics.csv`` has one row
for each line, condition and metric.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.csv_text import csv_text
from hqde_fl.simulations.recording.seed_groups import SeedGroup
from hqde_fl.simulations.report.number_text import interval_text, metric_text
from hqde_fl.simulations.report.scores import line_scores
from hqde_fl.simulations.statistics.paired import PairedDifference
from hqde_fl.simulations.statistics.samples import METHOD_NAMES, Interval

LATEX, MARKDOWN, STATISTICS = "results.tex", "results.md", "statistics.csv"

MAX_CONDITIONS = 6
"""Conditions that a table shows as columns."""


@dataclass(frozen=True)
class PaperCell:
    """A cell of a table.

    Parameters
    ----------
    text : str
        What stands in it.
    best : bool
        True if it is the best of its column.
    """

    text: str
    best: bool = False


@dataclass(frozen=True)
class PaperTable:
    """A table for a paper.

    Parameters
    ----------
    caption : str
        What the numbers are.
    heads : tuple[str, ...]
        The heads of the columns.
    rows : tuple[tuple[PaperCell, ...], ...]
        The rows; the first cell is the line's label.
    label : str
        The key by which LaTeX refers to the table; none if empty.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[PaperCell, ...], ...]
    label: str = ""


def write_paper_tables(comparison: Comparison, out: Path) -> None:
    """Write ``results.tex``, ``results.md`` and ``statistics.csv`` into the directory ``out``."""
    table = paper_table(comparison)
    replace_file(out / LATEX, latex(table).encode())
    replace_file(out / MARKDOWN, markdown(table).encode())
    replace_file(out / STATISTICS, csv_text(statistics_records(comparison)))


def paper_table(comparison: Comparison) -> PaperTable:
    """Return the table of a sweep's compared metric.

    Its spread is the standard deviation, or the interval if the analysis names one.
    """
    metric, seeds = comparison.metric, max(len(group.rows) for group in comparison.groups)
    better = "higher" if comparison.objective.higher_is_better() else "lower"
    caption = f"Final {metric} on the server's test set ({better} is better)"
    caption += f", mean over {seeds} seed{'s' if seeds > 1 else ''}"
    interval = comparison.analysis.interval
    if seeds > 1 and interval is None:
        caption += "; \N{PLUS-MINUS SIGN} is the standard deviation over the seeds"
    elif seeds > 1 and interval is not None:
        caption += f"; [ ] is the 95 % interval of the mean ({METHOD_NAMES[interval]})"
        if ends := [f"{end:g}" for end in comparison.objective.bounds() if isfinite(end)]:
            caption += f", cut at {' and '.join(ends)}"
    caption += ". Bold: the best of a column."
    first = comparison.compared_axes[0].name if comparison.compared_axes else ""
    if len(comparison.distinct_columns) <= MAX_CONDITIONS:
        heads = [", ".join(column) or metric for column in comparison.distinct_columns]
        columns = [
            _cells(comparison, [comparison.group_at(line, column) for line in comparison.lines])
            for column in comparison.distinct_columns
        ]
        lines = list(comparison.lines)
    else:
        scores = line_scores(comparison)
        heads = ["worst", "under", "mean with faults", "no faults"]
        lines = [score.line for score in scores]
        worst = [score.worst for score in scores]
        under = [
            PaperCell(", ".join(filter(None, [", ".join(g.labels[1:]) if g else "", s.incomplete])))
            for g, s in zip(worst, scores, strict=True)
        ]
        columns = [
            _cells(comparison, worst),
            under,
            _plain(comparison, [score.mean for score in scores]),
            _plain(comparison, [score.clean for score in scores]),
        ]
    rows = zip(map(PaperCell, lines), *columns, strict=True)
    return PaperTable(caption, (first, *heads), tuple(rows), f"tab:{comparison.title}")


def latex(table: PaperTable) -> str:
    """Return a table as LaTeX with the rules of the package booktabs."""
    columns = "l" + "r" * (len(table.heads) - 1)

    def row(cells: list[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    def shown(cell: PaperCell) -> str:
        return rf"\textbf{{{_tex(cell.text)}}}" if cell.best else _tex(cell.text)

    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{_tex(table.caption)}}}",
        *([f"  \\label{{{table.label}}}"] if table.label else []),
        f"  \\begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        row([_tex(head) for head in table.heads]),
        r"    \midrule",
        *(row([shown(cell) for cell in cells]) for cells in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def markdown(table: PaperTable) -> str:
    """Return a table as Markdown, its caption below it."""

    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def shown(cell: PaperCell) -> str:
        return f"**{_escaped(cell.text)}**" if cell.best else _escaped(cell.text)

    lines = [
        row([_escaped(head) for head in table.heads]),
        row(["---", *["---:"] * (len(table.heads) - 1)]),
        *(row([shown(cell) for cell in cells]) for cells in table.rows),
        "",
        _escaped(table.caption),
    ]
    return "\n".join(lines) + "\n"


def statistics_records(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a record for each group of seeds and each metric that the server measured.

    Differences to the baseline are those of the compared metric.
    """
    records = []
    for group in comparison.groups:
        place = dict(
            zip((axis.name for axis in comparison.compared_axes), group.labels, strict=False)
        )
        for metric in comparison.metrics or (comparison.metric,):
            sample = group.sample_of(metric)
            compared = metric == comparison.metric
            records.append(
                {
                    **place,
                    "metric": metric,
                    "n": len(group.finals(metric)),
                    "seeds": len(group.rows),
                    "mean": None if sample is None else sample.mean,
                    "standard-deviation": None if sample is None else sample.deviation,
                    **_ends("interval", None if sample is None else sample.interval),
                    "interval": METHOD_NAMES[group.interval_method],
                    **_difference(comparison.difference(group) if compared else None),
                }
            )
    return records


def _difference(paired: PairedDifference | None) -> dict[str, Any]:
    return {
        "difference": None if paired is None else paired.mean,
        **_ends("difference", None if paired is None else paired.sample.interval),
        "common-seeds": None if paired is None else paired.sample.n,
        "p": None if paired is None else paired.p,
        "p-holm": None if paired is None else paired.p_holm,
    }


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}-low": low, f"{name}-high": high}


def _cells(comparison: Comparison, groups: Sequence[SeedGroup | None]) -> list[PaperCell]:
    """Return the cells of a column: mean and deviation or interval, or why there is none."""
    best = _best(comparison, [None if group is None else group.mean for group in groups])
    with_interval = comparison.analysis.interval is not None
    return [
        PaperCell(_text(group, with_interval=with_interval), is_best)
        for group, is_best in zip(groups, best, strict=True)
    ]


def _text(group: SeedGroup | None, *, with_interval: bool) -> str:
    if group is None:
        return metric_text(None)
    if group.mean is None:
        return group.status
    if with_interval:
        return f"{metric_text(group.mean)} {interval_text(group.interval)}".strip()
    spread = group.deviation
    return metric_text(group.mean) + (
        "" if spread is None else f" \N{PLUS-MINUS SIGN} {metric_text(spread)}"
    )


def _plain(comparison: Comparison, values: list[float | None]) -> list[PaperCell]:
    pairs = zip(values, _best(comparison, values), strict=True)
    return [PaperCell(metric_text(value), is_best) for value, is_best in pairs]


def _best(comparison: Comparison, values: list[float | None]) -> list[bool]:
    """Return which values are written like the best; none if there is only one value."""
    badness: Callable[[float], float] = comparison.objective.badness
    known = [value for value in values if value is not None]
    if len(values) < 2 or not known:
        return [False] * len(values)
    best = metric_text(min(known, key=badness))
    return [value is not None and metric_text(value) == best for value in values]


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*_`<])", r"\\\1", text)
