"""Show which hyperparameters a sweep chose: a table for the page, for papers and as CSV."""

from __future__ import annotations

from pathlib import Path

from hqde_fl.clients.objective import VALIDATION
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.choice import choices, setting_axes
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.csv_text import csv_text
from hqde_fl.simulations.report.number_text import metric_text
from hqde_fl.simulations.report.paper_tables import PaperCell, PaperTable, latex, markdown

CHOICES = "choices"
"""Name of the files ``choices.csv``, ``.md`` and ``.tex``."""


def choice_table(comparison: Comparison) -> PaperTable | None:
    """Return the table of the chosen hyperparameters; None if the sweep chooses none.

    A setting with runs that have not finished has dashes.
    """
    names = comparison.analysis.choose
    if not names:
        return None
    metric = f"{VALIDATION}{comparison.metric.removeprefix(VALIDATION)}"
    settings = setting_axes(comparison)
    rows = []
    for choice in choices(comparison):
        chosen = choice.chosen or ("\N{EN DASH}",) * len(names)
        worst = metric_text(choice.worst)
        tied = str(choice.tied) if choice.chosen else "\N{EN DASH}"
        texts = (*choice.setting, *chosen, worst, ", ".join(choice.under), tied)
        rows.append(tuple(map(PaperCell, texts)))
    when = "best" if comparison.analysis.choose_round == "best" else "last"
    caption = (
        f"Chosen on the validation set: the best mean over the seeds of {metric} after the {when} "
        "round, under the attack that is worst for it. Of equally good ones (ties) the first in "
        "the file."
    )
    heads = (*settings, *(f"chosen {name}" for name in names), f"worst {metric}", "under", "ties")
    return PaperTable(caption, heads, tuple(rows))


def write_choices(comparison: Comparison, out: Path) -> None:
    """Write the table of the chosen hyperparameters as CSV, Markdown and LaTeX, if there is one."""
    table = choice_table(comparison)
    if table is None:
        return
    records = [
        dict(zip(table.heads, [cell.text for cell in row], strict=True)) for row in table.rows
    ]
    replace_file(out / f"{CHOICES}.csv", csv_text(records))
    replace_file(out / f"{CHOICES}.md", markdown(table).encode())
    replace_file(out / f"{CHOICES}.tex", latex(table).encode())
