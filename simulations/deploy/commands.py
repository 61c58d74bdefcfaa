"""The commands ``hqde-fl nodes ...``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.interruption import interruptible
from hqde_fl.simulations.deploy import membership_commands

if TYPE_CHECKING:
    from hqde_fl.simulations.deploy.nodes import Status

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
    port: Annotated[int, typer.Option(help="Its port on other hosts.")] = 9092,
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
    port: Annotated[int, typer.Option(help="The SuperLink's port; 0 for a free one.")] = 0,
    listen: Annotated[
        str, typer.Option(help="Where it listens; 0.0.0.0 for sites elsewhere.")
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
def status(directory: Directory) -> None:
    """Show the processes and the nodes' states at the SuperLink; exit status 1 if one is not up."""
    from hqde_fl.simulations.deploy.federation import FederationDirectory
    from hqde_fl.simulations.deploy.nodes import connected, online
    from hqde_fl.simulations.deploy.nodes import status as read

    federation = FederationDirectory.load(directory)
    edges = [FederationDirectory.load(path) for path in federation.edge_paths]
    well = True
    for each in (federation, *edges):
        if edges:
            typer.echo(f"== {each.path}")
        current = read(each)
        if current is None or not current.running:
            typer.echo("not up")
            well = False
            continue
        listed = online(connected(each))
        typer.echo(f"SuperLink at {current.address}")
        well = _print_processes(current, listed) and well
    if not well:
        raise typer.Exit(1)


def _print_processes(current: Status, listed: Mapping[int, str]) -> bool:
    """Print the processes of a federation; return True if all are up."""
    table = Table(box=None)
    for title in ("process", "pid", "restarts", "last exit", "node id", "SuperLink says"):
        table.add_column(title, no_wrap=True)
    well = True
    for report in current.processes:
        node = current.ids.get(report.name)
        state = "" if node is None else listed.get(node, "unknown")
        well = well and report.pid is not None and state in ("", "online")
        table.add_row(
            report.name,
            "waiting" if report.pid is None else str(report.pid),
            str(report.restarts),
            "" if report.exit_code is None else str(report.exit_code),
            "" if node is None else str(node),
            state,
        )
    Console().print(table)
    return well


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
