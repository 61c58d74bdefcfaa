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
    budget: Annotated[
        int, typer.Option(help="Candidates drawn; the fixed attacks come besides.")
    ] = 200,
    minutes: Annotated[float, typer.Option(help="Begin no candidate after this time.")] = 15.0,
    seeds: Annotated[
        str, typer.Option(metavar="LIST", help="Seeds that guide the search.")
    ] = "1,2",
    held_out: Annotated[
        str,
        typer.Option(metavar="LIST", help="Seeds on which the result is measured, at least two."),
    ] = "11,12,13,14,15",
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTACK",
            help="A further attack to try: its name, such as mine.py:MyAttack, or a TOML table, in "
            "which [low, high] is the range of a number; may be repeated.",
        ),
    ] = None,
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
    from hqde_fl.simulations.attack_search.evaluation import RESULTS
    from hqde_fl.simulations.attack_search.families import FAMILIES, own_family
    from hqde_fl.simulations.attack_search.search import FOUND, SearchSettings
    from hqde_fl.simulations.attack_search.search import attack_search as search
    from hqde_fl.simulations.attack_search.setting import require_attacks, searched_experiment
    from hqde_fl.simulations.console.integer_list import integer_list
    from hqde_fl.simulations.console.progress import quiet_flower
    from hqde_fl.simulations.experiment.own_modules import add_folder_of
    from hqde_fl.simulations.recording.recorded_run import read_lines

    add_folder_of(file)
    training = integer_list(seeds, "--seeds", SEEDS)
    settings = SearchSettings(
        budget, minutes, training, integer_list(held_out, "--held-out", SEEDS), seed
    )
    experiment = searched_experiment(rule, file, set_ or (), f)
    own = require_attacks(experiment, [own_family(text) for text in also or ()], f)
    told = experiment.strategy.rule.get("f", f)
    if told != f:
        typer.echo(f"warning: the rule is told f = {told}, and {f} attack (--attackers)", err=True)
    directory = out or Path("runs") / f"attack-search-{experiment.name}"
    console = Console()
    if known := len(read_lines(directory / RESULTS)):
        text = f"{directory} has {known} runs already: those of this search are not run again"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
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
            families=(*FAMILIES, *own),
            on_candidate=on_candidate,
        )
    console.print(_table(outcome))
    for line in summary(outcome, settings.held_out_seeds):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    said = f"the attack found, for an experiment's file: {directory / FOUND}"
    console.print(said, highlight=False, markup=False, soft_wrap=True)


def summary(outcome: SearchOutcome, held_out: tuple[int, ...]) -> list[str]:
    """Return lines that say what a search found, and on how many seeds."""
    lines = [
        f"{outcome.candidates} attacks tried, the fixed ones included, {outcome.failed} of them "
        f"failed; measured on {len(held_out)} held-out seeds",
        f"without attackers, on the held-out seeds: {fmean(outcome.clean):.3f}"
        if outcome.clean
        else "",
        _ties(outcome),
        *(f"left out, a run on a held-out seed failed: {label}" for label in outcome.left_out),
        _not_finite(outcome),
        _comparison(outcome),
    ]
    return list(filter(None, lines))


def _ties(outcome: SearchOutcome) -> str:
    """Return how many attacks are as bad as the one found; empty if none is."""
    if not outcome.tied:
        return ""
    others = "1 other" if len(outcome.tied) == 1 else f"{len(outcome.tied)} others"
    return (
        f"as bad on the training seeds as the attack found: {others}, such as {outcome.tied[0]}; "
        "the one tried first is shown"
    )


def _not_finite(outcome: SearchOutcome) -> str:
    """Return what runs without a finite metric count as; empty if there are none."""
    if not any(each.not_finite for each in (outcome.found, *outcome.fixed)):
        return ""
    return f"a run that ends without a finite {outcome.metric} counts as the worst value possible"


def _comparison(outcome: SearchOutcome) -> str:
    """Return how much worse the attack found is than the worst fixed one."""
    if not outcome.fixed:
        return "no fixed attack is left to compare with"
    worst = outcome.fixed[0]
    if outcome.found.faults in {fixed.faults for fixed in outcome.fixed}:
        return "no candidate was worse than the fixed attacks on the training seeds"
    difference, metric = outcome.difference, outcome.metric
    if difference is None:
        return f"no difference to the worst fixed attack, {worst.label}: a {metric} is not finite"
    more = "higher" if difference.mean > 0 else "lower"
    text = (
        f"on the held-out seeds {metric} is {abs(difference.mean):.3f} {more} under the attack "
        f"found than under the fixed attack that was worst on the training seeds, {worst.label}"
    )
    if (interval := difference.interval) is None:
        return text
    text += f"; 95 % interval of the difference [{interval.low:+.3f}, {interval.high:+.3f}]"
    return text + (", so it may be chance" if interval.low <= 0 <= interval.high else "")


def _table(outcome: SearchOutcome) -> Table:
    table = Table(title=f"{outcome.rule}: {outcome.metric} after the last round", title_style="")
    for column in ("attack", "training seeds", "held-out seeds"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    rows = [
        ("found: ", outcome.found),
        *(("fixed: ", each) for each in outcome.fixed[:FIXED_SHOWN]),
    ]
    for prefix, each in rows:
        label = prefix + each.label
        if each.not_finite:
            label += f" ({each.not_finite} runs not finite)"
        table.add_row(label, f"{fmean(each.training):.3f}", f"{fmean(each.held_out):.3f}")
    return table
