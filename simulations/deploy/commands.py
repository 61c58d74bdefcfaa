"""The commands ``hqde-fl nodes ...``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.interruption import interruptible
from hqde_fl.simulations.deploy import membership_commands

if TYPE_CHECKING:
    from hqde_fl.simulations.deploy.federation import FederationDirectory
    from hqde_fl.simulations.deploy.node_overview import NodeTimes

app = typer.Typer(
    name="nodes",
    help="A federation of real processes, with TLS and authenticated nodes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.add_typer(membership_commands.app)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's directory.")]


@app.command()
def init(
    directory: Directory,
    count: Annotated[int, typer.Option(help="How many nodes get a key.")] = 4,
    edges: Annotated[
        int, typer.Option(help="Make the nodes edges: so many, each with nodes of its own.")
    ] = 0,
    groups: Annotated[
        int, typer.Option(help="Give each node's config the edge to which it belongs, of so many.")
    ] = 0,
    per_edge: Annotated[int, typer.Option(help="How many nodes each edge has.")] = 2,
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name or address of the SuperLink; may be repeated."),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            help="Its port where a unit or `nodes start` starts it; `nodes up` has its own."
        ),
    ] = 9092,
) -> None:
    """Make an authority, the SuperLink's certificate and the nodes' keys."""
    from hqde_fl.simulations.deploy.federation import FederationDirectory

    with interruptible():
        if edges and groups:
            raise ConfigError(f"--groups is for nodes that are clients, found --edges {edges}")
        if edges:
            create = FederationDirectory.create_with_edges
            federation = create(directory, edges, per_edge, host or (), port)
            what = f"{edges} keys of edges, with {per_edge} node keys each"
        else:
            create_flat = FederationDirectory.create
            federation = create_flat(directory, count, host or (), port, groups=groups)
            what = f"{count} node keys"
    typer.echo(
        f"{federation.path}: an authority, a certificate for {', '.join(federation.hosts)} "
        f"and {what}"
    )


@app.command()
def up(
    directory: Directory,
    count: Annotated[int | None, typer.Option(help="How many nodes; default all.")] = None,
    port: Annotated[
        int,
        typer.Option(help="The SuperLink's port, not that of `nodes init`; 0: as before, or free."),
    ] = 0,
    listen: Annotated[
        str, typer.Option(help="Address where it listens, with --port; 0.0.0.0 for other hosts.")
    ] = "127.0.0.1",
) -> None:
    """Start a SuperLink and nodes on this machine, and keep them running until ``down``."""
    from hqde_fl.simulations.deploy.federation import FederationDirectory
    from hqde_fl.simulations.deploy.nodes import up

    with interruptible():
        federation = FederationDirectory.load(directory)
        started = up(federation, count, port=port, listen=listen, on_step=typer.echo)
    online = len(federation.local[:count])
    typer.echo(f"up: SuperLink at {started.address}, {online} nodes online")


@app.command()
def down(
    directory: Directory,
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete the database and the logs too.")
    ] = False,
) -> None:
    """End all processes that ``up`` started."""
    from hqde_fl.simulations.deploy.federation import FederationDirectory
    from hqde_fl.simulations.deploy.nodes import down

    with interruptible():
        was_up = down(FederationDirectory.load(directory), keep=not forget)
    typer.echo("down" if was_up else "was not up")


@app.command()
def status(
    directory: Directory,
    superlink: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A SuperLink that Flower's configuration names."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Whose round times and reasons: a run directory; with --superlink a run's id, "
            "by default the latest.",
        ),
    ] = None,
) -> None:
    """Show certificates, processes and nodes; exit status 1 if one is not up or not online.

    A run is a run directory, or with --superlink a run's id. "training" is what a node reports,
    "whole" the time from the message to its reply, both as medians of its last ten rounds.
    """
    from hqde_fl.simulations.deploy import status_tables
    from hqde_fl.simulations.deploy.federation import FederationDirectory
    from hqde_fl.simulations.deploy.registered_keys import ControlAddress

    federation = FederationDirectory.load(directory)
    with interruptible():
        for line in status_tables.certificate_lines(federation):
            typer.echo(line)
        if superlink is not None:
            control = ControlAddress.named(superlink)
            if line := status_tables.shown_certificate_line(federation, control):
                typer.echo(line)
            run = status_tables.latest_run(control) if run is None else run
            times = status_tables.times_of_run(run, control) if run else {}
            typer.echo(f"SuperLink at {control.address}" + (f", run {run}" if run else ""))
            well = status_tables.show_nodes(federation, control, times)
        else:
            times = {} if run is None else status_tables.times_of_run(run, None)
            well = all([_show_here(federation.path, times), *_edges(federation)])
            if run is None:
                typer.echo("rounds and times of the nodes: --run DIR, with DIR of a run")
    if not well:
        raise typer.Exit(1)


def _edges(federation: FederationDirectory) -> list[bool]:
    """Show the federations of the edges on this machine; return whether each is up."""
    return [_show_here(path, {}, title=f"== {path}") for path in federation.edge_paths]


def _show_here(path: Path, times: Mapping[int, NodeTimes], title: str = "") -> bool:
    """Show a federation on this machine; return True if it is up and its nodes are online."""
    from hqde_fl.simulations.deploy import status_tables
    from hqde_fl.simulations.deploy.federation import FederationDirectory
    from hqde_fl.simulations.deploy.membership import control_of
    from hqde_fl.simulations.deploy.nodes import status as read

    federation = FederationDirectory.load(path)
    current, control = read(federation), control_of(federation)
    if title:
        typer.echo(title)
    if current is None or control is None:
        typer.echo("not up")
        return False
    typer.echo(f"SuperLink at {current.address}")
    processes = status_tables.show_processes(current)
    started = [
        name for name in federation.names if name in current.ids or name in federation.remote
    ]
    return status_tables.show_nodes(federation, control, times, started) and processes


@app.command()
def logs(
    directory: Directory,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="superlink, node-0, ...; default all.")
    ] = None,
    lines: Annotated[int, typer.Option(help="How many of the last lines.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", help="Go on, until Ctrl-C.")] = False,
) -> None:
    """Show the output of the processes."""
    from hqde_fl.simulations.deploy import nodes
    from hqde_fl.simulations.deploy.federation import FederationDirectory

    files = nodes.logs(FederationDirectory.load(directory), name)
    if follow and len(files) != 1:
        raise ConfigError(f"--follow needs the NAME of one process, one of {', '.join(files)}")
    for title, path in files.items():
        if name is None:
            typer.echo(f"== {title}: {path}")
        for line in nodes.tail(path, lines):
            typer.echo(line)
        if follow:
            for line in nodes.new_lines(path):
                typer.echo(line)
