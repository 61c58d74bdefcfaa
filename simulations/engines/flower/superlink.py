"""A private, local SuperLink, and the promise that it ends with the run.

``flwr run`` would start a SuperLink by itself, detached, found by its port alone and left running.
Here the SuperLink is started first, in simulation mode, on a free port, below a temporary
``FLWR_HOME`` whose ``config.toml`` names it, and under a `guard` that ends it and all it started.
So two runs never share one, and the environment of this run is the one its apps see.
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

from hqde_fl.errors import RunError
from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.engines.flower import guard
from hqde_fl.simulations.engines.ray.private import is_private, private_environment

_ATTEMPTS = 3  # another process may take the free port first
_STARTUP = 60.0  # seconds
_SHUTDOWN = 30.0  # seconds
_MAX_BASE_LENGTH = 24  # characters: Ray's sockets below the directory have about 107 to themselves


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink that answers.

    Attributes
    ----------
    home : Path
        Its ``FLWR_HOME``, removed with it.
    environment : Mapping of str to str
        The environment in which ``flwr`` finds it: its connection is the default one.
    """

    home: Path
    environment: Mapping[str, str]

    def flwr(self, *arguments: str) -> list[str]:
        """Return the command line of ``flwr`` with these arguments."""
        return [program("flwr", self.environment), *arguments]


@contextmanager
def private_superlink() -> Iterator[SuperLink]:
    """Start a SuperLink, and end it and everything it started.

    Yields
    ------
    SuperLink
        Ready to take a run.

    Raises
    ------
    RunError
        If it does not come up.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        port = _free_port()
        with (
            _home() as home,
            tempfile.TemporaryFile() as log,
            _guarded(home, port, environment := _simulating(home), log) as process,
        ):
            if _answers(process, port):
                (home / "config.toml").write_text(
                    '[superlink]\ndefault = "private"\n\n[superlink.private]\n'
                    f'address = "127.0.0.1:{port}"\ninsecure = true\n'
                )
                yield SuperLink(home, environment)
                return
            if attempt == _ATTEMPTS or process.poll() is None:
                raise RunError(f"the local SuperLink did not start: {_last_line(log)}")


def environment_for(home: Path, base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a private SuperLink and all it starts.

    Parameters
    ----------
    home : Path
        Its ``FLWR_HOME``.
    base : Mapping of str to str
        The environment to start from.
    """
    loopback = [
        name for name in (base.get("NO_PROXY") or base.get("no_proxy"), "127.0.0.1") if name
    ]
    return {
        **base,
        "FLWR_HOME": str(home),
        guard.MARK: str(home),
        # Otherwise uv installs the app's dependencies anew for every run.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": ",".join(loopback),
        "no_proxy": ",".join(loopback),
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), base.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def _simulating(home: Path) -> dict[str, str]:
    """Return the environment of a SuperLink whose simulations start a Ray.

    Flower starts it in a process of its own (``flwr-simulation``), with arguments to ``ray.init``
    that no configuration reaches; variables reach that process and all that it starts.
    If ``RAY_ADDRESS`` names a cluster, Flower joins it instead, and its settings are the user's.
    """
    environment = environment_for(home, os.environ)
    if is_private(environment.get("RAY_ADDRESS", "")):
        environment |= private_environment()
    return environment


def program(name: str, environment: Mapping[str, str]) -> str:
    """Return the path of one of Flower's programs."""
    path = shutil.which(name, path=environment["PATH"])
    if path is None:
        raise RunError(f"{name!r} is not on the PATH: install flwr[simulation] with this Python")
    return path


@contextmanager
def _guarded(
    home: Path, port: int, environment: Mapping[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a SuperLink under a guard; on the way out the guard ends it."""
    command = [program("flower-superlink", environment), "--insecure", "--simulation"]
    command += ["--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-P", guard.__file__, str(home), *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,  # Ctrl-C is for this process, which then closes the pipe
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
            # In case the guard itself was killed.
            guard.end_all(str(home))


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the SuperLink is healthy; False if it ends or takes too long."""
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
    """Make a temporary directory with a path short enough for the Unix sockets below it."""
    base = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(
        prefix="hqde-fl-",
        dir=base if len(base) <= _MAX_BASE_LENGTH else "/tmp",
        ignore_cleanup_errors=True,  # the guard has removed it already
    ) as directory:
        yield Path(directory)


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
