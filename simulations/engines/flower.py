"""The ``flower`` engine: stock ``flwr run``, and the run's true outcome.

A run goes to a private SuperLink that simulates the nodes, or to one that is up, with real nodes.

The Flower App that is run is generated: a few lines for each component, which import this package's
own, and a ``pyproject.toml`` that holds the whole experiment. So it works from any directory, with
or without a checkout, and the bundle that Flower ships is a few kilobytes.

``flwr run --stream`` exits with 0 even when the ServerApp failed, therefore the outcome is what
``flwr ls`` says.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from hqde_fl.errors import ConfigError, RunError
from simulations.engines.superlink import SuperLink, private_superlink

LOG_FILE = "flower.log"
"""Everything Flower said, in the run directory."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COMPLETED = "finished:completed"
_PREFIX = "Simulation failed with exception: "
_TAIL = 8  # lines quoted when Flower itself gives no reason
_STARTED = re.compile(r"Successfully started run (\d+)")
_ANSWER_SECONDS = 60.0  # for a SuperLink that is being restarted

_COMPONENT = '''"""One end of a generated Flower App."""

import sys

sys.path.append({directory!r})  # a task named "module:attribute" may live there

from simulations import {name}

app = {name}.app
'''

_PROJECT = """[project]
name = "hqde-fl-run"
version = "0.1.0"
description = "One run of hqde-fl, generated"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "hqde-fl"

[tool.flwr.app.components]
serverapp = "hqde_fl_run.server_app:app"
clientapp = "hqde_fl_run.client_app:app"

[tool.flwr.app.config]
{config}
"""


def run_flower(
    experiment_json: str,
    partitions: int,
    out: Path,
    *,
    cpus_per_client: float = 1,
    gpus_per_client: float = 0,
    resume: bool = False,
    on_line: Callable[[str], None],
) -> None:
    """Run an experiment with ``flwr run`` and wait for its end.

    Parameters
    ----------
    experiment_json : str
        The complete experiment.
    partitions : int
        Number of simulated nodes.
    out : Path
        The run directory, written by the ServerApp; Flower's log is added to it.
    cpus_per_client : float, optional
        Whole number of CPUs that one client at work occupies.
    gpus_per_client : float, optional
        GPUs, or the fraction of one, that one client at work occupies.
    resume : bool, optional
        Whether the run in ``out`` is to go on.
    on_line : Callable
        Called with each line Flower says, as it comes.

    Raises
    ------
    ConfigError
        If the resources of a client are none Flower knows, or the current directory hides a package
        of hqde-fl.
    RunError
        If the run did not end ``finished:completed``; the message has the reason.
    """
    federation = _federation(partitions, cpus_per_client, gpus_per_client)
    _check_directory()
    with private_superlink() as superlink:
        run = _Run(superlink, superlink.home / "app", out, on_line, resume=resume)
        run.execute(experiment_json, str(out.resolve()), "--federation-config", federation)


def run_deployed(
    experiment_json: str,
    out: Path,
    superlink: SuperLink,
    *,
    connection: str = "",
    resume: bool = False,
    on_line: Callable[[str], None],
) -> None:
    """Run an experiment on real nodes and wait for its end; stop it if that is interrupted.

    Parameters
    ----------
    experiment_json : str
        The complete experiment.
    out : Path
        Gets Flower's log.
    superlink : SuperLink
        Where to run it.
    connection : str, optional
        Its name in Flower's configuration; that of the default one if empty. A SuperLink that has
        a name is taken to be on another host: the ServerApp writes the run directory there, below
        its own working directory.
    resume : bool, optional
        Whether the run in ``out`` is to go on.
    on_line : Callable
        Called with each line Flower says, as it comes.

    Raises
    ------
    RunError
        If the run did not end ``finished:completed``; the message has the reason.
    """
    with tempfile.TemporaryDirectory(prefix="hqde-fl-") as directory:
        run = _Run(superlink, Path(directory) / "app", out, on_line, connection, resume)
        try:
            run.execute(experiment_json, "" if connection else str(out.resolve()))
        except BaseException:
            run.stop()
            raise


def write_app(directory: Path, config: dict[str, str]) -> None:
    """Write a Flower App whose components are those of this package.

    Parameters
    ----------
    directory : Path
        Where to; created.
    config : dict of str to str
        The run's configuration.
    """
    package = directory / "hqde_fl_run"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A generated Flower App."""\n')
    for name in ("server_app", "client_app"):
        component = _COMPONENT.format(name=name, directory=os.getcwd())
        (package / f"{name}.py").write_text(component, encoding="utf-8")
    # A JSON string is a TOML string, as long as it is not escaped to surrogate pairs.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in config.items()]
    (directory / "pyproject.toml").write_text(
        _PROJECT.format(config="\n".join(lines)), encoding="utf-8"
    )


def _federation(partitions: int, cpus: float, gpus: float) -> str:
    """Return the value of ``--federation-config``."""
    if partitions < 1:
        raise ConfigError(f"partitions = {partitions}: at least 1 is needed")
    if cpus < 1 or cpus != int(cpus):
        raise ConfigError(
            f"cpus-per-client = {cpus:g}: flwr run takes whole numbers of CPUs from 1 up"
        )
    if gpus < 0:
        raise ConfigError(f"gpus-per-client = {gpus:g}: it must not be negative")
    return (
        f"num-supernodes={partitions} client-resources-num-cpus={int(cpus)} "
        f"client-resources-num-gpus={float(gpus)}"
    )


def _check_directory() -> None:
    """Refuse a current directory that hides one of our packages: Ray looks there first."""
    for name in ("hqde_fl", "strategies", "clients", "simulations"):
        specs = PathFinder.find_spec(name, [os.getcwd()]), find_spec(name)
        there, ours = (spec.origin if spec else None for spec in specs)
        if there and ours and not os.path.samefile(there, ours):
            raise ConfigError(
                f"{there} hides the package {name!r} of hqde-fl from Ray's workers: "
                "run from another directory, or rename it"
            )


class _Run:
    """One ``flwr run`` on a SuperLink."""

    def __init__(
        self,
        superlink: SuperLink,
        app: Path,
        out: Path,
        on_line: Callable[[str], None],
        connection: str = "",
        resume: bool = False,
    ) -> None:
        self._superlink, self._app, self._on_line = superlink, app, on_line
        self._out, self._resume = out.resolve(), resume
        self._names = [connection] if connection else []
        self._id: str | None = None
        self._over = False

    def execute(self, experiment_json: str, out: str, *arguments: str) -> None:
        """Run, log, and raise unless it was completed."""
        config = {"experiment": "", "set": "", "config": experiment_json, "out": out}
        write_app(self._app, config | {"resume": out if self._resume else ""})
        self._out.mkdir(parents=True, exist_ok=True)
        tail: deque[str] = deque(maxlen=_TAIL)
        command = ["run", str(self._app), *self._names, "--stream", *arguments]
        with (self._out / LOG_FILE).open("a" if self._resume else "w", encoding="utf-8") as log:
            for line in _lines(self._superlink.flwr(*command), self._superlink):
                print(line, file=log, flush=True)
                if self._id is None and (found := _STARTED.search(line)):
                    self._id = found[1]
                self._on_line(line)
                if line.strip():
                    tail.append(line.strip())
        status, details = self._outcome()
        if status != _COMPLETED:
            reason = details or "\n".join(tail) or "Flower gave no reason"
            raise RunError(f"flwr run ended {status}: {reason}\n(its log: {self._out / LOG_FILE})")

    def stop(self) -> None:
        """Have the SuperLink stop it, if it is not over."""
        if self._id is not None and not self._over:
            self._call("stop", self._id, *self._names)

    def _outcome(self) -> tuple[str, str]:
        """Its status, once that is final, and its details."""
        if self._id is None:
            return "before it started", ""
        until = time.monotonic() + _ANSWER_SECONDS
        while True:
            listed = self._call("ls", *self._names, "--run-id", self._id, "--format", "json")
            try:
                run = dict(json.loads(listed.stdout)["runs"][0])
            except (json.JSONDecodeError, KeyError, IndexError) as error:
                if time.monotonic() > until:
                    said = (listed.stderr or listed.stdout).strip() or str(listed.returncode)
                    raise RunError(f"flwr ls does not answer: {said}") from error
            else:
                until = time.monotonic() + _ANSWER_SECONDS
                status = str(run["status"])
                if status.startswith("finished"):
                    self._over = True
                    details = str(run.get("status-details", ""))
                    return status, "" if details == "N/A" else details.removeprefix(_PREFIX)
            time.sleep(1.0)  # the stream of the log broke off before the run ended

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._superlink.flwr(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(self._superlink.environment),
            text=True,
            check=False,
        )


def _lines(command: list[str], superlink: SuperLink) -> Iterator[str]:
    """Run a command and yield its lines without colours, as they come."""
    with _process(command, superlink) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield _COLOUR.sub("", line.rstrip("\n"))


@contextmanager
def _process(command: list[str], superlink: SuperLink) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(superlink.environment),
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C is for this process, which then ends all of them
    )
    try:
        with process:
            yield process
    except BaseException:
        process.kill()
        raise
