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
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging import WARNING
from pathlib import Path
from typing import Any, TextIO

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.engines.flower.superlink import SuperLink, private_superlink
from hqde_fl.simulations.experiment import import_path, own_modules

LOG_FILE = "flower.log"
"""Everything Flower said, in the run directory."""

APP_NAME = "hqde-fl-run"
"""How the names of generated apps begin."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COMPLETED = "finished:completed"
_PREFIX = "Simulation failed with exception: "
_TAIL = 8  # lines quoted when Flower itself gives no reason
_STARTED = re.compile(r"Successfully started run (\d+)")
_ANSWER_SECONDS = 60.0  # for a SuperLink that is being restarted
_SUBMIT_SECONDS = 8.0  # for ``flwr run`` to say which run it has started
_STOP_SECONDS = 20.0  # for ``flwr stop``, and for ``flwr ls`` before it

_COMPONENT = '''"""One end of a generated Flower App."""

from hqde_fl_run.import_path import follow

follow({path!r})  # before anything of hqde-fl, which a module of the user's own might hide

from hqde_fl.simulations import {module}
from hqde_fl.simulations.experiment import own_modules

own_modules.look_in({folders!r})
{app}
'''

_SERVER = "app = server_app.app"

# Flower pickles the ClientApp for Ray's workers. Functions of this module take them here first,
# before anything of hqde-fl is imported.
_CLIENT = """from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    return client_app.app(message, context)


@app.evaluate()
def evaluate(message, context):
    return client_app.app(message, context)


@app.query("identity")
def identity(message, context):
    return client_app.app(message, context)"""

_PROJECT = """[project]
name = "{name}"
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
        If the resources of a client are none Flower knows.
    RunError
        If the run did not end ``finished:completed``; the message has the reason.
    """
    federation = _federation(partitions, cpus_per_client, gpus_per_client)
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
    """Run an experiment on real nodes and wait for its end; stop the run if that is interrupted.

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
        run = _Deployed(superlink, Path(directory) / "app", out, on_line, connection, resume)
        try:
            run.execute(experiment_json, "" if connection else str(out.resolve()))
        except BaseException:
            with uninterrupted():
                run.stop()
            raise


def write_app(
    directory: Path,
    config: dict[str, str],
    name: str = APP_NAME,
    path: Mapping[str, Any] | None = None,
) -> None:
    """Write a Flower App whose components are those of this package.

    Parameters
    ----------
    directory : Path
        Where to; created.
    config : dict of str to str
        The run's configuration.
    name : str, optional
        The name of the app.
    path : Mapping of str to Any, optional
        The ``import_path`` that its processes follow; that of this process if not given.
    """
    package = directory / "hqde_fl_run"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A generated Flower App."""\n')
    shutil.copyfile(import_path.__file__, package / "import_path.py")
    path, folders = path or import_path.current(), own_modules.looked_in()
    for module, app in (("server_app", _SERVER), ("client_app", _CLIENT)):
        text = _COMPONENT.format(module=module, app=app, path=path, folders=folders)
        (package / f"{module}.py").write_text(text, encoding="utf-8")
    # A JSON string is a TOML string, as long as it is not escaped to surrogate pairs.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in config.items()]
    (directory / "pyproject.toml").write_text(
        _PROJECT.format(name=name, config="\n".join(lines)), encoding="utf-8"
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


class _Run:
    """One ``flwr run`` on a SuperLink."""

    anywhere = False
    """Whether the processes of the run need not be on this machine."""

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
        # found again by it; Flower takes at most 32 characters
        self._name = f"{APP_NAME}-{time.time_ns():x}{os.getpid() & 0xFFF:03x}"
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._id: str | None = None
        self._over = False

    def execute(self, experiment_json: str, out: str, *arguments: str) -> None:
        """Run, log, and raise unless it was completed."""
        config = {"experiment": "", "set": "", "config": experiment_json, "out": out}
        config |= {"resume": out if self._resume else ""}
        write_app(self._app, config, self._name, import_path.current(self.anywhere))
        self._out.mkdir(parents=True, exist_ok=True)
        command = ["run", str(self._app), *self._names, "--stream", *arguments]
        with (
            (self._out / LOG_FILE).open("a" if self._resume else "w", encoding="utf-8") as file,
            _process(self._superlink.flwr(*command), self._superlink) as process,
        ):
            try:
                for line in _lines(process):
                    self._heed(line, file)
            except BaseException:
                self.submitted(process, file)
                raise
        status, details = self._outcome()
        if status != _COMPLETED:
            reason = details or "\n".join(self._tail) or "Flower gave no reason"
            raise RunError(f"flwr run ended {status}: {reason}\n(its log: {self._out / LOG_FILE})")

    def submitted(self, process: subprocess.Popen[str], file: TextIO) -> None:
        """Do what has to be done before ``flwr run`` is ended: here nothing."""

    def _heed(self, line: str, file: TextIO) -> None:
        """Log a line, and remember what is needed of it."""
        print(line, file=file, flush=True)
        if self._id is None and (found := _STARTED.search(line)):
            self._id = found[1]
        self._on_line(line)
        if line.strip():
            self._tail.append(line.strip())

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

    def _call(
        self, *arguments: str, seconds: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._superlink.flwr(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(self._superlink.environment),
            text=True,
            check=False,
            timeout=seconds,
            start_new_session=True,  # Ctrl-C is for this process
        )


class _Deployed(_Run):
    """One ``flwr run`` on a SuperLink that stays up, and has to be told to stop the run."""

    anywhere = True

    def submitted(self, process: subprocess.Popen[str], file: TextIO) -> None:
        """Wait until ``flwr run`` has said which run it started: it may just be submitting it."""
        if self._id is not None or self._over:
            return
        with uninterrupted():
            timer = threading.Timer(_SUBMIT_SECONDS, process.kill)
            timer.start()
            try:
                for line in _lines(process):
                    self._heed(line, file)
                    if self._id is not None:
                        break
            finally:
                timer.cancel()

    def stop(self) -> None:
        """Have the SuperLink stop it, if it is not over."""
        if self._over:
            return
        try:
            for number in [self._id] if self._id is not None else self._started():
                stopped = self._call("stop", number, *self._names, seconds=_STOP_SECONDS)
                if stopped.returncode:
                    said = (stopped.stderr or stopped.stdout).strip()
                    log(WARNING, "flwr stop %s: %s", number, said)
        except subprocess.TimeoutExpired as error:
            command = " ".join(["flwr", *map(str, error.cmd[1:])])
            log(WARNING, "%s does not answer: the run may go on", command)

    def _started(self) -> list[str]:
        """Return the ids of unfinished runs of this app, whose start nobody has heard of."""
        listed = self._call("ls", *self._names, "--format", "json", seconds=_STOP_SECONDS)
        try:
            runs = json.loads(listed.stdout)["runs"]
        except (json.JSONDecodeError, KeyError):
            return []
        return [
            str(run["run-id"])
            for run in runs
            if run.get("fab-name") == self._name and not str(run["status"]).startswith("finished")
        ]


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield the lines that a process prints, without colours, as they come."""
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
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        with process:  # its pipe is closed, and nothing is left of it
            pass
