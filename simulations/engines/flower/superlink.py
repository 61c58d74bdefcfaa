"""Start a private, local SuperLink that ends with the run.

``flwr run`` by itself would start a detached SuperLink, which other runs would find by its port and
which would keep running. Here the SuperLink is started first: in simulation mode, on a free port,
with a temporary ``FLWR_HOME`` whose ``config.toml`` names it, and under ``process_guard.py``, which
ends it and all processes that it started. So no two runs share one, and its apps have this run's
environment.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import tomli_w

from hqde_fl.clients.cache_location import CACHE_VARIABLE, STATE_VARIABLE
from hqde_fl.errors import RunError
from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.engines.flower import process_guard
from hqde_fl.simulations.engines.locked_folder import temporary_folder
from hqde_fl.simulations.engines.ray.private_ray import is_private, private_environment
from hqde_fl.simulations.engines.ray.session_folder import short_folder
from hqde_fl.simulations.recording.monitoring import ROOT_VARIABLE

_ATTEMPTS = 3  # another process may take the free port first
_STARTUP = 60.0  # seconds
_SHUTDOWN = 30.0  # seconds
_PREFIX = "hqde-fl-sl-"


@dataclass(frozen=True)
class SuperLink:
    """A running SuperLink.

    Attributes
    ----------
    home : Path
        Its ``FLWR_HOME``.
    environment : Mapping of str to str
        The environment in which its connection is the default one of ``flwr``.
    """

    home: Path
    environment: Mapping[str, str]

    def flwr(self, *arguments: str) -> list[str]:
        """Return the command line of ``flwr`` with these arguments."""
        return [program("flwr", self.environment), *arguments]


@contextmanager
def private_superlink(states: Path) -> Iterator[SuperLink]:
    """Start a SuperLink; at the end of the context, end it and all processes that it started.

    Parameters
    ----------
    states : Path
        The folder in which nodes keep their clients' states for a run that is resumed.

    Yields
    ------
    SuperLink
        Accepts runs.

    Raises
    ------
    RunError
        If it does not start.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        port = _free_port()
        with (
            _home() as home,
            tempfile.TemporaryFile() as log,
            _guarded(home, port, environment := _simulating(home, states), log) as process,
        ):
            if _answers(process, port):
                connection = {"address": f"127.0.0.1:{port}", "insecure": True}
                config = {"superlink": {"default": "private", "private": connection}}
                (home / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
                yield SuperLink(home, environment)
                return
            if attempt == _ATTEMPTS or process.poll() is None:
                raise RunError(f"the local SuperLink did not start: {_last_line(log)}")


def no_proxy_on_loopback(base: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment with which no proxy is asked for 127.0.0.1."""
    exempt = ",".join(filter(None, [base.get("NO_PROXY") or base.get("no_proxy"), "127.0.0.1"]))
    return {"NO_PROXY": exempt, "no_proxy": exempt}


def environment_for(home: Path, base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a private SuperLink and of all processes that it starts.

    Parameters
    ----------
    home : Path
        Its ``FLWR_HOME``.
    base : Mapping of str to str
        The environment to start from.
    """
    return {
        **base,
        "FLWR_HOME": str(home),
        process_guard.MARK: str(home),
        # Otherwise uv installs the app's dependencies again for every run.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # Each poll costs some milliseconds of two processes, and every node polls.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        **no_proxy_on_loopback(base),
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), base.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def _simulating(home: Path, states: Path) -> dict[str, str]:
    """Return the environment of a SuperLink whose simulations start a private Ray.

    Flower starts Ray in another process (``flwr-simulation``) and passes arguments to ``ray.init``
    that cannot be configured; but environment variables reach that process and its children.
    If ``RAY_ADDRESS`` names a cluster, Flower joins it instead, with the user's own settings.
    The clients' caches of model entries are in ``home``, too.
    """
    environment = environment_for(home, os.environ) | {
        CACHE_VARIABLE: str(home / "entries"),
        STATE_VARIABLE: str(states.resolve()),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        ROOT_VARIABLE: str(os.getpid()),
    }
    if is_private(environment.get("RAY_ADDRESS", "")):
        environment |= private_environment()
    return environment


def program(name: str, environment: Mapping[str, str]) -> str:
    """Return the path of one of Flower's programs on the environment's ``PATH``.

    ``RunError`` is raised if it is not there.
    """
    path = shutil.which(name, path=environment["PATH"])
    if path is None:
        raise RunError(f"{name!r} is not on the PATH: install flwr[simulation] with this Python")
    return path


@contextmanager
def _guarded(
    home: Path, port: int, environment: Mapping[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a SuperLink under ``process_guard``, and yield the guard's process.

    At the end of the context, the guard, the SuperLink and all that it started are ended.
    """
    command = [program("flower-superlink", environment), "--insecure", "--simulation"]
    command += ["--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-P", process_guard.__file__, str(home), *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,  # so that Ctrl-C reaches only this process, which closes the pipe
    )
    try:
        yield process
    finally:
        with uninterrupted():
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(timeout=_SHUTDOWN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # in case the guard itself was killed
            process_guard.end_all(str(home))


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the SuperLink on a port is healthy, and return True.

    Return False if its process ends, or after a minute.
    """
    deadline = time.monotonic() + _STARTUP
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == http.client.OK:
                return True
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _home() -> Iterator[Path]:
    """Yield a temporary directory whose path is short enough for Unix sockets below it.

    It is removed at the end of the context, unless the guard has removed it already.
    """
    with temporary_folder(_PREFIX, short_folder(len(_PREFIX) + 8)) as directory:
        yield directory


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
