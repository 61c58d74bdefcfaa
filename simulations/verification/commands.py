"""The commands ``hqde-fl verify`` and ``hqde-fl replay``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.integer_list import integer_list
from hqde_fl.simulations.console.interruption import interruptible

if TYPE_CHECKING:
    from hqde_fl.simulations.recording.recorded_run import Run
    from hqde_fl.simulations.verification.chain_check import Mismatch

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
DEFAULT_SPOTS = 44
"""Rounds after which a run with every tenth round forged has passed with a probability of .01."""


def verify(
    directory: RunPath,
    spot: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random rounds to compute again.")
    ] = DEFAULT_SPOTS,
    seed: Annotated[
        int | None, typer.Option(help="Choose the same rounds again; default: nobody knows which.")
    ] = None,
) -> None:
    """Check a run: its chain of hashes, its models, and random rounds that are computed again.

    The exit status is 1 if something does not fit.
    """
    from hqde_fl.simulations.checkpoint.resume import stored_experiment, stored_folders
    from hqde_fl.simulations.experiment.own_modules import add_folder_of
    from hqde_fl.simulations.recording.recorded_run import Run
    from hqde_fl.simulations.verification.chain_check import check_chain, check_models

    add_folder_of(None, stored_folders(directory))
    with _quiet():
        run, console = Run.load(directory), Console()
        if run.manifest["status"] == "running":
            raise ConfigError(f"{directory} is a run that goes on: verify it when it has ended")
        mismatches = [*check_chain(run), *check_models(run)]
        _say(console, f"chain and models of {len(run.rounds)} rounds: {_verdict(mismatches)}")
        _list(console, mismatches)
        if spot and stored_experiment(directory)["clients"].get("registered"):
            _say(console, "no round is computed again: only the registered nodes have its data")
        elif spot and len(run.rounds) > 1:
            computed = _spot_check(run, console, spot, seed)
            _list(console, computed)
            mismatches += computed
    if mismatches:
        raise typer.Exit(1)


def _spot_check(run: Run, console: Console, spots: int, seed: int | None) -> list[Mismatch]:
    from hqde_fl.simulations.verification.recomputation import Recomputation
    from hqde_fl.simulations.verification.spot_check import (
        DETECTION_SHARE,
        choose_rounds,
        detection_probability,
        spot_check,
        stretches,
    )

    for note in _differing_machine(run):
        typer.echo(f"warning: {note}", err=True)
    recomputation, chosen = Recomputation(run), choose_rounds(run, spots, seed)
    planned = stretches(chosen, recomputation.bases())
    computed = sum(stretch.last - stretch.base for stretch in planned)
    if computed > len(chosen):
        _say(
            console,
            f"{computed} rounds have to be computed for these {len(chosen)}: a run with "
            "[checkpoint] every = 1, keep = 0 has a checkpoint before each",
        )
    shown = track(
        planned, "computed again", console=console, transient=True, disable=not console.is_terminal
    )
    mismatches = [*spot_check(recomputation, shown)]
    chance = detection_probability(len(chosen), len(run.rounds) - 1)
    _say(
        console,
        f"{len(chosen)} of {len(run.rounds) - 1} rounds computed again: {_verdict(mismatches)} "
        f"(if {DETECTION_SHARE:.0%} were forged, one is among them with probability {chance:.3f})",
    )
    return mismatches


def replay(
    directory: RunPath,
    without: Annotated[
        str, typer.Option(metavar="LIST", help="Partition ids of clients, such as 3,5.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new or empty directory.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="ray, inline or flower; default the run's.")
    ] = None,
) -> None:
    """Run a recorded run again without some clients, and compare the two.

    All else is the same: the clients of each round, what the others draw at random, who attacks.
    """
    from hqde_fl.simulations.checkpoint.resume import stored_experiment, stored_folders
    from hqde_fl.simulations.console.progress import progress
    from hqde_fl.simulations.experiment.experiment import Experiment
    from hqde_fl.simulations.experiment.own_modules import add_folder_of
    from hqde_fl.simulations.recording.recorded_run import Run
    from hqde_fl.simulations.run import run_experiment

    add_folder_of(None, stored_folders(directory))
    before, table = Run.load(directory), dict(stored_experiment(directory))
    left_out = sorted(
        {
            *table["clients"].get("without", ()),
            *integer_list(without, "--without", "partition ids such as 3,5"),
        }
    )
    experiment = Experiment.parse({**table, "clients": {**table["clients"], "without": left_out}})
    name = "-".join(map(str, left_out)) or "nobody"
    whole = directory.resolve()
    out = out or whole.with_name(f"{whole.name}-without-{name}")
    console = Console()
    with _quiet(), progress(experiment.rounds, console, experiment.name) as on_round:
        run_experiment(experiment, out, engine=engine, on_round=on_round)
    after, name = Run.load(out), before.objective.primary
    for line in _comparison(before, after, name):
        _say(console, line)


def _comparison(before: Run, after: Run, metric: str) -> Iterator[str]:
    """Yield lines that say how a run's metric differs from that of its replay."""
    from hqde_fl.simulations.recording.round_chain import CHAIN_HASH, MODEL_HASH

    def last(run: Run, key: str) -> Any:
        return run.rounds[-1].get(key) if run.rounds else None

    one, other = before.primary, after.primary
    if one is not None and other is not None:
        yield f"{metric}: {other:.4f}, with them {one:.4f} ({other - one:+.4f})"
    for key, what in ((MODEL_HASH, "final model"), (CHAIN_HASH, "records of all rounds")):
        if last(before, key) is not None:
            same = last(before, key) == last(after, key)
            yield f"{what}: {'the same to the bit' if same else 'others'}"
    yield f"run directory: {after.path}"


def _differing_machine(run: Run) -> list[str]:
    """Return lines about what differs here from where a run was recorded, and changes bits."""
    from hqde_fl.simulations.recording.environment import hardware, versions

    notes = []
    for what, here in (("versions", versions()), ("hardware", hardware())):
        there = run.manifest.get(what, {})
        keys = [k for k in here if k not in ("ray", "flwr", "memory-gib", "system") and k in there]
        notes += [
            f"the run was recorded with {key} {there[key]}, here it is {here[key]}: the last bits "
            "may differ"
            for key in keys
            if there[key] != here[key]
        ]
    return notes


def _list(console: Console, mismatches: Sequence[Mismatch]) -> None:
    for one in sorted(mismatches, key=lambda mismatch: mismatch.round):
        _say(console, f"round {one.round}: {one.what}")


def _verdict(mismatches: Sequence[Mismatch]) -> str:
    return f"{len(mismatches)} findings" if mismatches else "all fits"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Limit Flower's log to warnings, and let signals end the block."""
    from hqde_fl.simulations.console.progress import quiet_flower

    with interruptible(), quiet_flower():
        yield
