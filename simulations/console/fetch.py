"""The command ``hqde-fl fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hqde_fl.simulations.console.interruption import interruptible


def fetch(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Flower's id of the run.")],
    superlink: Annotated[
        str, typer.Option(metavar="NAME", help="The SuperLink in Flower's configuration.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; default runs/RUN.")
    ] = None,
) -> None:
    """Fetch the results, the model and the report of a run on a SuperLink that has a name.

    Without checkpoints, which stay on the SuperLink's host.
    """
    from hqde_fl.simulations.deploy.registered_keys import ControlAddress
    from hqde_fl.simulations.deploy.run_files import RunFetcher

    directory = Path("runs") / run if out is None else out
    with interruptible():
        names = RunFetcher(ControlAddress.named(superlink), run).fetch(directory)
    typer.echo(f"{directory}: {', '.join(names)}")
