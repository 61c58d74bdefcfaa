"""``hqde-fl tour``: all stops one after the other, and a page at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from hqde_fl.simulations.tour.stop import Visited


@contextmanager
def errors_alone_are_logged() -> Iterator[None]:
    """Log nothing below an error while the block lasts: the stops provoke warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def visit() -> Iterator[Visited]:
    """Visit all stops, and yield what each has shown; one Ray serves those on Ray."""
    from hqde_fl.simulations.tour import in_formulas, in_runs, on_ray

    lease = on_ray.lease()
    try:
        for stop in (*on_ray.STOPS, *in_runs.STOPS, *in_formulas.STOPS):
            began = time.monotonic()
            figure = stop.measure()
            yield Visited(stop, figure.value, figure.text, time.monotonic() - began)
    finally:
        lease.release()


def tour(
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The page that is written at the end.")
    ] = Path("tour.html"),
) -> None:
    """Show every component of HQDE at work for a moment: a line and a figure each, and a page."""
    from hqde_fl.simulations.recording.atomic_files import replace_file
    from hqde_fl.simulations.tour.page import tour_page

    began, visited = time.monotonic(), []
    with errors_alone_are_logged():
        for number, one in enumerate(visit(), start=1):
            visited.append(one)
            typer.echo(f"{number:>2}  {one.stop.title}: {one.stop.happens}")
            typer.echo(f"      {one.text} ({one.seconds:.1f} s)")
    seconds = time.monotonic() - began
    replace_file(out, tour_page(visited, seconds).encode())
    typer.echo(f"{len(visited)} stops in {seconds:.0f} s; page: {out}")
