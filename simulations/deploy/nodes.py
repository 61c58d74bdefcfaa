"""``nodes up``, ``down``, ``status`` and ``logs``: a federation's processes on this machine."""

from __future__ import annotations

import fcntl
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
from hqde_fl.simulations.deploy.federation import CONNECTION, Federation
from hqde_fl.simulations.deploy.supervised import Report
from hqde_fl.simulations.deploy.supervisor import PORTS, STATUS
from hqde_fl.simulations.engines.flower.guard import MARK, end_all
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
"""With ``python -m``, modules in the working directory would come before those of hqde-fl."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Status:
    """What is known of a federation's processes.

    Parameters
    ----------
    running : bool
        Whether its supervisor is alive.
    pid : int
        The supervisor's.
    address : str
        The SuperLink's.
    processes : tuple of Report
        The SuperLink first, then the nodes.
    ids : Mapping of str to int
        The nodes' ids.
    error : str, optional
        Why the supervisor gave up.
    """

    running: bool
    pid: int
    address: str
    processes: tuple[Report, ...]
    ids: Mapping[str, int]
    error: str | None = None


def status(federation: Federation) -> Status | None:
    """What the supervisor wrote last; None if it never ran."""
    try:
        found = json.loads((federation.state / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Status(
        running=_supervises(found["supervisor"], federation),
        pid=found["supervisor"],
        address=found["address"],
        processes=tuple(Report(**report) for report in found["processes"]),
        ids=found["ids"],
        error=found["error"],
    )


def up(
    federation: Federation,
    count: int | None = None,
    *,
    port: int = 0,
    seconds: float = UP_SECONDS,
    on_step: Callable[[str], None] = lambda text: None,
) -> Status:
    """Start a SuperLink and SuperNodes on this machine, and wait until they are connected.

    Parameters
    ----------
    federation : Federation
        Whose keys.
    count : int, optional
        How many nodes; all that have keys if not given.
    port : int, optional
        The SuperLink's; 0 for the one it had before, or a free one.
    seconds : float, optional
        How long to wait.
    on_step : Callable, optional
        Told what happens.

    Raises
    ------
    ConfigError
        If it is up already, has fewer keys, or the port is out of range.
    RunError
        If the nodes do not connect; nothing is left running then. If another process is at work
        in the directory, or it cannot be written.
    """
    count = federation.count if count is None else count
    if not 1 <= count <= federation.count:
        raise ConfigError(f"count must be in [1, {federation.count}] (the keys), found {count}")
    if not 0 <= port <= 65535:
        raise ConfigError(f"port must be in [0, 65535], 0 for any, found {port}")
    with _alone(federation):
        if (found := status(federation)) is not None and found.running:
            raise ConfigError(f"{federation.path} is up already, at {found.address}")
        try:
            federation.state.mkdir(mode=0o700, exist_ok=True)
            (federation.state / STATUS).unlink(missing_ok=True)
            _choose_ports(federation, count, port)
        except OSError as error:
            raise RunError(f"{federation.state} cannot be written: {error.strerror}") from error
        try:
            process = _start(federation, count)
            on_step("SuperLink and SuperNodes started; waiting for them to connect")
            return _wait(federation, count, process, time.monotonic() + seconds)
        except BaseException:
            with uninterrupted():
                _end(federation)
            raise


def down(federation: Federation, *, keep: bool = True) -> bool:
    """End everything that runs from a federation's directory; whether there was anything.

    Parameters
    ----------
    federation : Federation
        Which.
    keep : bool, optional
        Keep the database and the logs.

    Raises
    ------
    RunError
        If another process is at work in the directory.
    """
    with _alone(federation):
        running = _end(federation)
        if not keep:
            supervisor.forget(federation)
    return running


def _end(federation: Federation) -> bool:
    found = status(federation)
    running = found is not None and found.running
    if found is not None and running:
        os.kill(found.pid, signal.SIGTERM)
        until = time.monotonic() + DOWN_SECONDS
        while _supervises(found.pid, federation) and time.monotonic() < until:
            time.sleep(_POLL)
    end_all(str(federation.home))  # in case the supervisor itself was killed
    (federation.state / STATUS).unlink(missing_ok=True)
    return running


@contextmanager
def _alone(federation: Federation) -> Iterator[None]:
    """Hold the directory: who starts processes in it and who ends them must not meet."""
    descriptor = os.open(federation.path, os.O_RDONLY)  # not in ``state``, which ``down`` deletes
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another `nodes up` or `nodes down` is at work in {federation.path}"
            ) from None
        except OSError:
            pass  # a file system without locks: nothing to be had
        yield
    finally:
        os.close(descriptor)


def connected(federation: Federation) -> SuperLink:
    """The federation's SuperLink, for ``flwr``.

    Raises
    ------
    ConfigError
        If it is not up.
    """
    found = status(federation)
    if found is None or not found.running:
        raise ConfigError(f"{federation.path} is not up: `hqde-fl nodes up {federation.path}`")
    return SuperLink(federation.home, federation.environment())


def online(link: SuperLink) -> dict[int, str]:
    """What the SuperLink says of its nodes: id -> ``online``, ``offline`` or ``registered``.

    Raises
    ------
    RunError
        If it does not answer.
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
        said = (listed.stderr or listed.stdout).strip() or f"exit status {listed.returncode}"
        raise RunError(f"flwr supernode list does not answer: {said}") from error
    return {int(node["node-id"]): str(node["status"]) for node in nodes}


def logs(federation: Federation, name: str | None = None) -> dict[str, Path]:
    """The log files, by the process's name; of one process if ``name`` is given."""
    found = {path.stem: path for path in sorted((federation.state / "logs").glob("*.log"))}
    if not found:
        raise ConfigError(f"no logs yet: `hqde-fl nodes up {federation.path}`")
    if name is None:
        return found
    if name not in found:
        raise UnknownNameError("process", name, found)
    return {name: found[name]}


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, without colours.

    Raises
    ------
    ConfigError
        If their number is negative.
    """
    if lines < 0:
        raise ConfigError(f"lines must be >= 0, found {lines}")
    text = _COLOUR.sub("", path.read_text(encoding="utf-8", errors="replace"))
    return text.splitlines()[-lines:] if lines else []


def follow(path: Path) -> Iterator[str]:
    """Lines as they are appended to a log, for ever."""
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_END)
        while True:
            if line := file.readline():
                yield _COLOUR.sub("", line.rstrip("\n"))
            else:
                time.sleep(_POLL)


@contextmanager
def federation_up(
    federation: Federation, count: int | None = None, **options: Any
) -> Iterator[Status]:
    """A federation that is up for as long as this lasts."""
    found = up(federation, count, **options)
    try:
        yield found
    finally:
        down(federation)


def _supervises(pid: int, federation: Federation) -> bool:
    """Whether a process is this federation's, and not one that was given the same number."""
    try:
        process = psutil.Process(pid)
        marked = process.environ().get(MARK) == str(federation.home)
        return bool(marked and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _choose_ports(federation: Federation, count: int, port: int) -> None:
    path = federation.state / PORTS
    try:
        ports = [
            known if known != port and _free(known) else 0
            for known in json.loads(path.read_bytes())
        ]
    except (OSError, ValueError, TypeError):  # there is none, or it is damaged
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


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _start(federation: Federation, count: int) -> subprocess.Popen[bytes]:
    federation.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = [os.path.abspath(each) for each in sys.path]
    arguments = [str(federation.path), str(count)]
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
    federation: Federation, count: int, process: subprocess.Popen[bytes], until: float
) -> Status:
    """Wait until all nodes are online."""
    while time.monotonic() < until:
        ended = process.poll() is not None  # asked first: it may still write why
        found = status(federation)
        if found is not None and found.error is not None:
            raise RunError(found.error)
        if ended:
            raise RunError(f"the supervisor ended: {_last(federation)}")
        if found is not None and found.ids:
            said = online(federation.connect(found.address))
            if sum(said.get(node) == "online" for node in found.ids.values()) == count:
                return found
        time.sleep(_POLL)
    raise RunError(f"the nodes did not connect in time: see {federation.state / 'logs'}")


def _last(federation: Federation) -> str:
    lines = tail(federation.state / "supervisor.log", 1)
    return lines[0] if lines else "it said nothing"
