"""Start, end and observe a federation's processes on this machine (``nodes up`` and so on)."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hqde_fl.errors import ConfigError, RunError, UnknownNameError
from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.deploy import supervisor
from hqde_fl.simulations.deploy.federation import CONNECTION, FederationDirectory
from hqde_fl.simulations.deploy.registered_keys import ControlAddress
from hqde_fl.simulations.deploy.supervised import Report
from hqde_fl.simulations.deploy.supervisor import PORTS, STATUS
from hqde_fl.simulations.engines.flower.process_guard import MARK, end_all
from hqde_fl.simulations.engines.flower.superlink import SuperLink
from hqde_fl.simulations.recording.atomic_files import replace_file

UP_SECONDS = 180.0
DOWN_SECONDS = 60.0
_POLL = 0.2
_SUPERVISOR = f"""
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from {supervisor.__name__} import main
sys.exit(main(sys.argv[1:]))
"""
"""Code of the supervisor; ``python -m`` would import from the working directory first."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Status:
    """The status of a federation's processes.

    Parameters
    ----------
    running : bool
        True if the supervisor is running.
    pid : int
        Process id of the supervisor.
    address : str
        Address of the SuperLink.
    processes : tuple of Report
        Reports on the SuperLink and then the nodes.
    ids : Mapping of str to int
        Name of each node -> its node id; empty until the nodes are registered.
    error : str, optional
        The error that ended the supervisor.
    registered : bool
        True once the nodes are registered, of which there may be none.
    """

    running: bool
    pid: int
    address: str
    processes: tuple[Report, ...]
    ids: Mapping[str, int]
    error: str | None = None
    registered: bool = True


def status(federation: FederationDirectory) -> Status | None:
    """Return the status that the supervisor wrote last; None if no status file can be read.

    ``running`` is not read but checked now.
    """
    try:
        table = json.loads((federation.state / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Status(
        running=_supervises(table["supervisor"], federation),
        pid=table["supervisor"],
        address=table["address"],
        processes=tuple(Report(**report) for report in table["processes"]),
        ids=table["ids"],
        error=table["error"],
        registered=bool(table.get("registered", True)),
    )


def up(
    federation: FederationDirectory,
    count: int | None = None,
    *,
    port: int = 0,
    listen: str = supervisor.LOOPBACK,
    seconds: float = UP_SECONDS,
    on_step: Callable[[str], None] = lambda text: None,
) -> Status:
    """Start a SuperLink and SuperNodes on this machine; return their status once all are connected.

    If the nodes are edges, the federation of each is started first.

    Parameters
    ----------
    federation : FederationDirectory
        The federation.
    count : int, optional
        Number of nodes to start; all that have keys if not given.
    port : int, optional
        Port of the SuperLink; 0 for its previous one, or a free one.
    listen : str, optional
        Address on which the SuperLink listens: ``127.0.0.1``, or ``0.0.0.0`` for sites elsewhere.
    seconds : float, optional
        Maximum number of seconds to wait.
    on_step : Callable, optional
        Called with a sentence on each step.

    Raises
    ------
    ConfigError
        If the federation is up already, has fewer keys, or the port is out of range.
    RunError
        If the nodes do not connect, after all processes have been ended; or if the port is in use,
        or the directory is locked by another process or cannot be written.
    """
    count = len(federation.local) if count is None else count
    if federation.edges and 1 <= count <= federation.count:
        options: dict[str, Any] = {"port": port, "listen": listen, "seconds": seconds}
        return _up_with_edges(federation, count, on_step=on_step, **options)
    return _up(federation, count, port=port, listen=listen, seconds=seconds, on_step=on_step)


def _up_with_edges(
    federation: FederationDirectory,
    count: int,
    *,
    on_step: Callable[[str], None],
    **options: Any,
) -> Status:
    """Start the federations of ``count`` edges, and then the edges and their SuperLink."""
    edges = [FederationDirectory.load(path) for path in federation.edge_paths[:count]]
    started = []
    try:
        for edge in edges:
            on_step(f"{edge.path.name}: its own nodes")
            _up(edge, edge.count, on_step=on_step, seconds=options["seconds"])
            started.append(edge)
        return _up(federation, count, on_step=on_step, **options)
    except BaseException:
        with uninterrupted():
            for edge in started:
                down(edge)
        raise


def _up(
    federation: FederationDirectory,
    count: int,
    *,
    port: int = 0,
    listen: str = supervisor.LOOPBACK,
    seconds: float = UP_SECONDS,
    on_step: Callable[[str], None],
) -> Status:
    """Do the work of ``up`` for one federation."""
    keys = len(federation.local)
    if not min(keys, 1) <= count <= keys:
        raise ConfigError(f"count must be in [1, {keys}] (the keys), found {count}")
    if not 0 <= port <= 65535:
        raise ConfigError(f"port must be in [0, 65535], 0 for any, found {port}")
    if listen not in (supervisor.LOOPBACK, "0.0.0.0"):
        raise ConfigError(f"listen must be {supervisor.LOOPBACK} or 0.0.0.0, found {listen!r}")
    with federation.locked():
        if (current := status(federation)) is not None and current.running:
            raise ConfigError(f"{federation.path} is up already, at {current.address}")
        if port and not _free(port, listen):
            raise RunError(f"port {port} is in use on {listen}: choose another with --port")
        try:
            federation.state.mkdir(mode=0o700, exist_ok=True)
            (federation.state / STATUS).unlink(missing_ok=True)
            _choose_ports(federation, count, port)
        except OSError as error:
            raise RunError(f"{federation.state} cannot be written: {error.strerror}") from error
        try:
            process = _start(federation, count, listen)
            on_step("SuperLink and SuperNodes started; waiting for them to connect")
            return _wait(federation, count, process, time.monotonic() + seconds)
        except BaseException:
            with uninterrupted():
                _end(federation)
            raise


def down(federation: FederationDirectory, *, keep: bool = True) -> bool:
    """End a federation's processes on this machine; return True if their supervisor was running.

    Parameters
    ----------
    federation : FederationDirectory
        The federation.
    keep : bool, optional
        False also deletes its folder of state: database, logs, ports.

    Raises
    ------
    RunError
        If the directory is locked by another process.
    """
    with federation.locked():
        running = _end(federation)
        if not keep:
            supervisor.forget(federation)
    for path in federation.edge_paths:
        down(FederationDirectory.load(path), keep=keep)
    return running


def _end(federation: FederationDirectory) -> bool:
    current = status(federation)
    running = current is not None and current.running
    if current is not None and running:
        os.kill(current.pid, signal.SIGTERM)
        until = time.monotonic() + DOWN_SECONDS
        while _supervises(current.pid, federation) and time.monotonic() < until:
            time.sleep(_POLL)
    end_all(str(federation.home))  # in case the supervisor itself was killed
    (federation.state / STATUS).unlink(missing_ok=True)
    return running


def connected(federation: FederationDirectory) -> SuperLink:
    """Return the SuperLink of a federation that is up.

    Raises
    ------
    ConfigError
        If the federation is not up.
    """
    current = status(federation)
    if current is None or not current.running:
        raise ConfigError(f"{federation.path} is not up: `hqde-fl nodes up {federation.path}`")
    return SuperLink(federation.home, federation.environment())


def online(link: SuperLink) -> dict[int, str]:
    """Return the SuperLink's list of nodes: id -> ``online``, ``offline`` or ``registered``.

    Raises
    ------
    RunError
        If the SuperLink does not answer.
    """
    listed = subprocess.run(
        link.flwr("supernode", "list", CONNECTION, "--format", "json"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=dict(link.environment),
        text=True,
        check=False,
    )
    try:
        nodes: list[dict[str, Any]] = json.loads(listed.stdout)["nodes"]
    except (ValueError, KeyError) as error:
        output = (listed.stderr or listed.stdout).strip() or f"exit status {listed.returncode}"
        raise RunError(f"flwr supernode list does not answer: {output}") from error
    return {int(node["node-id"]): str(node["status"]) for node in nodes}


def logs(federation: FederationDirectory, name: str | None = None) -> dict[str, Path]:
    """Return the log files by the names of their processes; only that of ``name`` if given.

    ``ConfigError`` is raised if there are no logs, or none of that name.
    """
    files = {path.stem: path for path in sorted((federation.state / "logs").glob("*.log"))}
    if not files:
        raise ConfigError(f"no logs yet: `hqde-fl nodes up {federation.path}`")
    if name is None:
        return files
    if name not in files:
        raise UnknownNameError("process", name, files)
    return {name: files[name]}


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a log, without colours.

    Raises
    ------
    ConfigError
        If ``lines`` is negative.
    """
    if lines < 0:
        raise ConfigError(f"lines must be >= 0, found {lines}")
    text = _COLOUR.sub("", path.read_text(encoding="utf-8", errors="replace"))
    return text.splitlines()[-lines:] if lines else []


def new_lines(path: Path) -> Iterator[str]:
    """Yield lines as they are appended to a log; never ends."""
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_END)
        while True:
            if line := file.readline():
                yield _COLOUR.sub("", line.rstrip("\n"))
            else:
                time.sleep(_POLL)


@contextmanager
def federation_up(
    federation: FederationDirectory, count: int | None = None, **options: Any
) -> Iterator[Status]:
    """Start a federation's processes with ``up``, and end them at the end of the context.

    The context yields their status; ``options`` are further arguments of ``up``.
    """
    started = up(federation, count, **options)
    try:
        yield started
    finally:
        down(federation)


def _supervises(pid: int, federation: FederationDirectory) -> bool:
    """Return True if the process with the supervisor's id lives and belongs to this federation.

    So another process that got the same id later is not taken for the supervisor.
    """
    try:
        process = psutil.Process(pid)
        marked = process.environ().get(MARK) == str(federation.home)
        return bool(marked and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _choose_ports(federation: FederationDirectory, count: int, port: int) -> None:
    """Choose the ports of the SuperLink and of ``count`` nodes, and write them to a file.

    The SuperLink gets ``port`` unless it is 0. Previous ports are kept if they are free.
    """
    path = federation.state / PORTS
    try:
        ports = [
            known if known != port and _free(known) else 0
            for known in json.loads(path.read_bytes())
        ]
    except (OSError, ValueError, TypeError):  # the file is missing or damaged
        ports = []
    ports = (ports + [0] * (count + 1 - len(ports)))[: count + 1]
    if port:
        ports[0] = port
    sockets = [socket.socket() for _ in ports]  # all held at once, so that they differ
    for number, held in enumerate(sockets):
        if not ports[number]:
            held.bind(("127.0.0.1", 0))
            ports[number] = held.getsockname()[1]
    for held in sockets:
        held.close()
    replace_file(path, json.dumps(ports).encode())


def _free(port: int, listen: str = supervisor.LOOPBACK) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen, port))
        except (OSError, OverflowError):
            return False
    return True


def _start(federation: FederationDirectory, count: int, listen: str) -> subprocess.Popen[bytes]:
    federation.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = [os.path.abspath(folder) for folder in sys.path]
    arguments = [str(federation.path), str(count), listen]
    with (federation.state / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _SUPERVISOR, json.dumps(path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=federation.environment(),
            start_new_session=True,
        )


def _wait(
    federation: FederationDirectory, count: int, process: subprocess.Popen[bytes], until: float
) -> Status:
    """Wait until ``count`` nodes are online, and return the status.

    ``RunError`` is raised if the supervisor ends, or ``time.monotonic()`` reaches ``until``.
    """
    while time.monotonic() < until:
        ended = process.poll() is not None  # before the status is read, which may have the error
        current = status(federation)
        if current is not None and current.error is not None:
            raise RunError(current.error)
        if ended:
            raise RunError(f"the supervisor ended: {_last_log_line(federation)}")
        names = federation.local[:count]
        if current is not None and current.registered:
            control = ControlAddress(current.address, federation.superlink / "ca.crt")
            listed = control.statuses()
            if all(listed.get(current.ids[name]) == "online" for name in names):
                federation.connect(current.address)
                return current
        time.sleep(_POLL)
    raise RunError(f"the nodes did not connect in time: see {federation.state / 'logs'}")


def _last_log_line(federation: FederationDirectory) -> str:
    lines = tail(federation.state / "supervisor.log", 1)
    return lines[0] if lines else "it said nothing"
