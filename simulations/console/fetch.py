"""The command ``hqde-fl fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hqde_fl.errors import RunError
from hqde_fl.simulations.console.interruption import interruptible


def fetch(
    superlink: Annotated[
        str, typer.Option(metavar="NAME", help="The SuperLink in Flower's configuration.")
    ],
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Flower's id of the run; default the latest."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; default runs/RUN.")
    ] = None,
) -> None:
    """Fetch the results, the model and the report of a run on a SuperLink that has a name.

    Without checkpoints, which stay on the SuperLink's host.
    """
    from hqde_fl.simulations.deploy.registered_keys import ControlAddress
    from hqde_fl.simulations.deploy.run_files import RunFetcher
    from hqde_fl.simulations.deploy.status_tables import latest_run

    with interruptible():
        control = ControlAddress.named(superlink)
        run = latest_run(control) if run is None else run
        if not run:
            raise RunError(f"{control.address} has no directory of any run: begin one")
        directory = Path("runs") / run if out is None else out
        names = RunFetcher(control, run).fetch(directory)
    typer.echo(f"{directory}: {', '.join(names)}")
