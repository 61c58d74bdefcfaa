"""The command ``hqde-fl attack-search``."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hqde_fl.simulations.console.interruption import interruptible

if TYPE_CHECKING:
    from hqde_fl.simulations.attack_search.search import SearchOutcome

SEEDS = "seeds such as 1,2"
FIXED_SHOWN = 5
"""Fixed attacks in the table."""


def attack_search(
    rule: Annotated[
        str, typer.Argument(metavar="RULE", help="A rule's name, or a TOML table of one.")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The experiment; default: digits, 10 clients."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key; may be repeated."),
    ] = None,
    f: Annotated[int, typer.Option("--attackers", help="The number of attackers, f.")] = 2,
    budget: Annotated[int, typer.Option(help="Candidates beside the fixed attacks.")] = 200,
    minutes: Annotated[float, typer.Option(help="Begin no candidate after this time.")] = 15.0,
    seeds: Annotated[
        str, typer.Option(metavar="LIST", help="Seeds that guide the search.")
    ] = "1,2",
    held_out: Annotated[
        str, typer.Option(metavar="LIST", help="Seeds on which the result is measured.")
    ] = "11,12,13,14,15",
    jobs: Annotated[int, typer.Option(metavar="N", min=0, help="Runs at once; 0: one a core.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the search itself.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default runs/attack-search-RULE.")
    ] = None,
) -> None:
    """Search for the attack that hurts a rule most; measure it on seeds that the search never saw.

    Families, strengths, who attacks and when. A search that was interrupted goes on in its
    directory.
    """
    from hqde_fl.simulations.attack_search.search import SearchSettings
    from hqde_fl.simulations.attack_search.search import attack_search as search
    from hqde_fl.simulations.attack_search.setting import searched_experiment
    from hqde_fl.simulations.console.integer_list import integer_list
    from hqde_fl.simulations.console.progress import quiet_flower
    from hqde_fl.simulations.experiment.own_modules import add_folder_of

    add_folder_of(file)
    training = integer_list(seeds, "--seeds", SEEDS)
    settings = SearchSettings(
        budget, minutes, training, integer_list(held_out, "--held-out", SEEDS), seed
    )
    experiment = searched_experiment(rule, file, set_ or (), f)
    directory = out or Path("runs") / f"attack-search-{experiment.name}"
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        interruptible(),
        quiet_flower(),
        Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar,
    ):
        shown = bar.add_task("fixed attacks", total=None)

        def on_candidate(number: int, candidate: Any, value: float | None, worst: float) -> None:
            bar.update(shown, completed=number, description=f"worst so far {worst:.3f}")

        outcome = search(
            experiment,
            f,
            directory,
            settings,
            jobs=jobs or os.cpu_count() or 1,
            on_candidate=on_candidate,
        )
    console.print(_table(outcome))
    for line in summary(outcome, settings.held_out_seeds):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def summary(outcome: SearchOutcome, held_out: tuple[int, ...]) -> list[str]:
    """Return lines that say what a search found, and on how many seeds."""
    difference = outcome.difference
    lines = [
        f"{outcome.candidates} candidates, {outcome.failed} of them failed; "
        f"measured on {len(held_out)} held-out seeds",
        f"without attackers: {fmean(outcome.clean):.3f}",
    ]
    if outcome.found.faults in {fixed.faults for fixed in outcome.fixed}:
        return [*lines, "no candidate was worse than the fixed attacks on the training seeds"]
    text = f"found - worst fixed attack: {difference.mean:+.3f}"
    if difference.interval is not None:
        text += f" [{difference.interval.low:+.3f}, {difference.interval.high:+.3f}]"
    return [*lines, text]


def _table(outcome: SearchOutcome) -> Table:
    table = Table(title=f"{outcome.rule}: {outcome.metric} after the last round", title_style="")
    for column in ("attack", "training seeds", "held-out seeds"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    rows = [
        ("found: ", outcome.found),
        *(("fixed: ", each) for each in outcome.fixed[:FIXED_SHOWN]),
    ]
    for prefix, each in rows:
        table.add_row(
            prefix + each.label, f"{fmean(each.training):.3f}", f"{fmean(each.held_out):.3f}"
        )
    return table
