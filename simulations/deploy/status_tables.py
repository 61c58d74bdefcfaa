"""Tables of ``hqde-fl nodes status``."""

from __future__ import annotations

import os
import ssl
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import typer
from cryptography import x509
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.deploy import clientapp_forks, clientapp_shim
from hqde_fl.simulations.deploy.authority import days_left
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.membership import revoked_names
from hqde_fl.simulations.deploy.node_overview import NodeTimes, ago, last_seen, node_times
from hqde_fl.simulations.deploy.nodes import Status
from hqde_fl.simulations.deploy.registered_keys import UNREGISTERED, ControlAddress, public_key
from hqde_fl.simulations.deploy.run_files import RunFetcher
from hqde_fl.simulations.engines.locked_folder import temporary_folder
from hqde_fl.simulations.recording.file_names import CLIENTS
from hqde_fl.simulations.recording.recorded_run import read_lines
from hqde_fl.terminal_text import printable

WARNING_DAYS = 30
"""Days before the end of a certificate from which it is warned of."""
UNLIMITED = 1_000
"""Columns of a table that goes into a file or a pipe."""
_SECONDS = 10.0
"""Time for a SuperLink to show its certificate."""


def certificate_lines(federation: FederationDirectory) -> list[str]:
    """Return a line about each certificate of a federation: how many days it is still valid."""
    lines = []
    for what, path in (
        ("authority", federation.path / "ca.crt"),
        ("server certificate", federation.superlink / "server.crt"),
    ):
        try:
            days = days_left(path)
        except (OSError, ValueError):
            lines.append(f"{what}: {path} cannot be read")
            continue
        text = f"{what}: valid for {days} days" if days >= 0 else f"{what}: EXPIRED"
        advice = f": `hqde-fl nodes renew {federation.path}`" if what != "authority" else ""
        lines.append(f"{text}{advice if days < WARNING_DAYS else ''}")
    return lines


def shown_certificate_line(federation: FederationDirectory, control: ControlAddress) -> str:
    """Return what to do if a SuperLink shows another certificate than the directory's; else ""."""
    host, _, port = control.address.rpartition(":")
    path = federation.superlink / "server.crt"
    try:
        shown = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=_SECONDS)
        if x509.load_pem_x509_certificate(shown.encode()) == x509.load_pem_x509_certificate(
            path.read_bytes()
        ):
            return ""
    except (OSError, ValueError):  # the list of nodes says more
        return ""
    return (
        f"{control.address} shows another certificate than {path}: copy server.key and server.crt "
        "to its host, readable by the SuperLink's user"
    )


def show_processes(current: Status) -> bool:
    """Print the processes of a federation on this machine; return True if all are up."""
    table = Table(box=None)
    for title in ("process", "pid", "restarts", "last exit", "ClientApps"):
        table.add_column(title, no_wrap=True)
    for report in current.processes:
        table.add_row(
            report.name,
            "waiting" if report.pid is None else str(report.pid),
            str(report.restarts),
            "" if report.exit_code is None else str(report.exit_code),
            "" if report.pid is None else clientapps(report.pid),
        )
    _print(table)
    return all(report.pid is not None for report in current.processes)


def clientapps(pid: int) -> str:
    """Return how many ClientApps a SuperNode has, such as "2, 1 waiting"; "" if none."""
    running, asked = -1, 0  # the process that forks them looks as they do
    with suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                words = " ".join(child.cmdline())
                running += clientapp_forks.__name__ in words
                asked += clientapp_shim.__file__ in words
    waiting = asked - max(running, 0)
    texts = [str(asked - waiting)] if asked else []
    return ", ".join(texts + [f"{waiting} waiting"] * (waiting > 0))


def show_nodes(
    federation: FederationDirectory,
    control: ControlAddress,
    times: Mapping[int, NodeTimes],
    names: Collection[str] | None = None,
) -> bool:
    """Print nodes as a SuperLink sees them, all if no names are given; True if all are online."""
    listed = {node.public_key: node for node in control.nodes() if node.status != UNREGISTERED}
    table = Table(box=None)
    titles = ("node", "node id", "SuperLink says", "last seen", "round", "training", "whole")
    for title in titles:
        table.add_column(title, no_wrap=True)
    table.add_column("not kept", overflow="fold")
    well = True
    for name in federation.names if names is None else names:
        node = _registered(federation, name, listed)
        well = well and node is not None and node.status == "online"
        if node is None:
            table.add_row(name, "", "not registered")
            continue
        recent = times.get(int(node.node_id))
        row: list[str | Text] = [name, str(node.node_id), str(node.status), ago(last_seen(node))]
        if recent is not None:
            row += [str(recent.round), _seconds(recent.train), _seconds(recent.turnaround)]
            row.append(Text(printable(recent.reason, 200)))
        table.add_row(*row)
    _print(table)
    if revoked := revoked_names(federation):
        typer.echo(f"revoked: {', '.join(revoked)}")
    return well


def _print(table: Table) -> None:
    """Print a table as wide as the terminal, or into a file or pipe as wide as it is."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=UNLIMITED)
    console.print(table)


def _registered(
    federation: FederationDirectory, name: str, listed: Mapping[bytes, Any]
) -> Any | None:
    try:
        return listed.get(public_key(federation.superlink / f"{name}.pub"))
    except ConfigError:  # it is made at the site, and has not come back yet
        return None


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def times_of_run(run: str, control: ControlAddress | None) -> dict[int, NodeTimes]:
    """Return the times of each node in a run.

    Parameters
    ----------
    run : str
        A run directory, or Flower's id of a run on a SuperLink that has a name.
    control : ControlAddress, optional
        The SuperLink that has it; None for a directory.

    Raises
    ------
    ConfigError
        If there is no such directory, or its records are damaged.
    RunError
        If the SuperLink does not send them.
    """
    directory = Path(run)
    if control is None or not run.isdigit() or directory.is_dir():
        if not (directory / CLIENTS).is_file():
            what = "a run directory or a run's id" if control else "a run directory"
            hint = "" if control else ", and with --superlink NAME a run's id"
            raise ConfigError(f"{run} has no {CLIENTS}: --run takes {what}{hint}")
        return node_times(read_lines(directory / CLIENTS))
    with temporary_folder() as folder:
        RunFetcher(control, run).fetch(folder, only=(CLIENTS,))
        return node_times(read_lines(folder / CLIENTS))


def latest_run(control: ControlAddress) -> str:
    """Return Flower's id of the latest run that a SuperLink has a directory of; "" if of none."""
    for run in control.runs():
        try:
            RunFetcher(control, run).listing()
        except RunError:
            continue
        return run
    return ""
