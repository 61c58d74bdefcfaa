"""The command ``hqde-fl top``: a live view of a run, from the files that it writes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.console.interruption import interruptible
from hqde_fl.simulations.engines.locked_folder import temporary_folder

PIPE_WIDTH = 100
"""Columns of the text where stdout is no terminal."""

MAX_NAMED = 3
"""Runs that an error names at most."""

Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="Of a run, begun or not; a run's id with --superlink."),
]
Once = Annotated[bool, typer.Option("--once", help="Print one view as text, and end.")]
Interval = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, help="Time between two views.")
]
SuperLinkName = Annotated[
    str,
    typer.Option(
        "--superlink",
        metavar="NAME",
        help="The SuperLink in Flower's configuration that has the run.",
    ),
]


def top(
    directory: Directory,
    once: Once = False,
    interval: Interval = 2.0,
    superlink: SuperLinkName = "",
) -> None:
    """Watch a run: its rounds, clients in flight, stragglers, failures, and each node's load."""
    console = Console()
    with suppress(KeyboardInterrupt), ExitStack() as stack:  # Ctrl-C is how one leaves
        update: Callable[[], object] = _nothing
        if superlink:
            folder = stack.enter_context(temporary_folder())
            update = _mirror(str(directory), superlink, folder)
            directory = folder
        stack.enter_context(interruptible())
        update()
        if once or not console.is_terminal:
            show_once(directory, console)
            return

        def pause() -> None:
            time.sleep(interval)
            update()

        follow(directory, console, pause)


def _nothing() -> None:
    """Do nothing: another process writes the directory."""


def _mirror(run: str, superlink: str, folder: Path) -> Callable[[], None]:
    """Return a function that brings a copy of a run's records on a SuperLink up to date.

    Once the copy has begun, it stays as it is while the SuperLink does not answer.
    """
    from hqde_fl.monitor import schema
    from hqde_fl.simulations.deploy.registered_keys import ControlAddress
    from hqde_fl.simulations.deploy.run_files import RunFetcher
    from hqde_fl.simulations.recording.file_names import CLIENTS, MANIFEST, ROUNDS

    fetcher = RunFetcher(ControlAddress.named(superlink), run)

    def update() -> None:
        try:
            fetcher.update(folder, only=(MANIFEST, ROUNDS, CLIENTS, schema.FILE))
        except RunError:
            if not (folder / MANIFEST).exists():
                raise

    return update


def show_once(directory: Path, console: Console) -> None:
    """Print what is known of a run as plain text.

    Raises
    ------
    ConfigError
        If there is no run in the directory.
    """
    from hqde_fl.simulations.console.top_view import Room, view
    from hqde_fl.simulations.recording.live_run import LiveRun

    run = LiveRun(directory)
    run.refresh()
    refuse_other_directories(directory)
    if run.manifest is None:
        raise ConfigError(f"{directory}: no run has begun there")
    told = console.is_terminal or "COLUMNS" in os.environ
    width = console.width if told else PIPE_WIDTH
    plain = Console(
        file=console.file, width=width, force_terminal=False, color_system=None, highlight=False
    )
    room = Room(width, ascii_only=plain.options.ascii_only)
    with plain.capture() as capture:
        plain.print(view(run, time.time(), room))
    for line in capture.get().splitlines():
        console.file.write(line.rstrip() + "\n")


def follow(directory: Path, console: Console, pause: Callable[[], object]) -> None:
    """Show a run on a terminal until it finishes; one that fails or is interrupted may be resumed.

    Parameters
    ----------
    directory : Path
        The run directory, which need not exist yet.
    console : Console
        The terminal.
    pause : Callable
        Waits until the next view is due.

    Raises
    ------
    ConfigError
        If the directory is that of a sweep, or one of several runs.
    """
    from rich.live import Live

    from hqde_fl.simulations.console.top_view import Room, view
    from hqde_fl.simulations.recording.live_run import LiveRun

    run = LiveRun(directory)

    def draw(height: int | None) -> object:
        room = Room(console.width, height, console.options.ascii_only)
        return view(run, time.time(), room)

    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                refuse_other_directories(directory)
                run.refresh()
                live.update(draw(console.height), refresh=True)  # type: ignore[arg-type]
                if run.status == "finished":
                    break
                pause()
    finally:
        if run.manifest is not None:  # leave the last view where the command was typed
            console.print(draw(None))


def refuse_other_directories(directory: Path) -> None:
    """Raise ``ConfigError`` for the directory of a sweep, of several runs, or for a file."""
    from hqde_fl.simulations.recording.file_names import INDEX, MANIFEST

    if (directory / MANIFEST).exists():
        return
    if directory.is_file():
        raise ConfigError(f"{directory} is a file: name the directory of a run")
    inside = (*directory.glob(f"*/{MANIFEST}"), *directory.glob(f"*/*/{MANIFEST}"))
    runs = sorted(inside, key=_changed, reverse=True)
    named = ", ".join(str(file.parent) for file in runs[:MAX_NAMED])
    if (directory / INDEX).exists():
        hint = f"name one of its runs, the latest first: {named}" if runs else "no run has begun"
        raise ConfigError(f"{directory} is a sweep: {hint}")
    if runs:
        raise ConfigError(
            f"{directory} is no run: name one of those in it, the latest first: {named}"
        )


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
