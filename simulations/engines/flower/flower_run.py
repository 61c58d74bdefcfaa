"""One ``flwr run``: start it, log its output and find out how it ended.

``flwr run --stream`` exits with 0 even if the ServerApp failed. So the outcome is taken from
``flwr ls``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hqde_fl.errors import RunError
from hqde_fl.private_files import private
from hqde_fl.simulations.engines.flower.app_writer import APP_NAME, write_app
from hqde_fl.simulations.engines.flower.carried_files import CarriedFiles
from hqde_fl.simulations.engines.flower.run_watch import RunWatch, is_finished, superlink_entry
from hqde_fl.simulations.engines.flower.superlink import SuperLink

LOG_FILE = "flower.log"
"""Name of the file in the run directory with all output of ``flwr run``."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COMPLETED = "finished:completed"
_SILENT = "No heartbeat received"  # in the details of a run whose server was not heard of
_PREFIX = "Simulation failed with exception: "
_TAIL = 8  # lines quoted when Flower itself gives no reason
_STARTED = re.compile(r"Successfully started run (\d+)")
_FOR_PROGRAMS = "hqde-fl round: "  # beginning of the lines that round_lines.py reads
_ANSWER_SECONDS = 60.0  # for a SuperLink that is being restarted


def started_run(line: str) -> str:
    """Return the id of the run that ``flwr run`` says in a line to have started; "" if in none."""
    match = _STARTED.search(line)
    return match[1] if match else ""


def unfinished_run(out: Path, home: Path) -> str:
    """Return the id of the run in ``out`` if it still goes on in its SuperLink; "" if not.

    A killed ``hqde-fl run`` leaves its run to the SuperLink. A SuperLink that does not answer, or
    does not know the run, counts as not running it.

    Parameters
    ----------
    out : Path
        The run directory, with the log of ``flwr run``.
    home : Path
        The ``FLWR_HOME`` in whose configuration the SuperLink is the default one.
    """
    try:
        started = _STARTED.findall((out / LOG_FILE).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    if not started:
        return ""
    goes_on = is_finished(home, superlink_entry(home), int(started[-1])) is False
    return started[-1] if goes_on else ""


class FlowerRun:
    """One ``flwr run`` on a SuperLink.

    Parameters
    ----------
    superlink : SuperLink
        The SuperLink that runs it.
    app : Path
        The directory in which the app is generated; it must not exist.
    out : Path
        The directory of Flower's log.
    on_line : Callable
        Called with each line of Flower's output.
    connection : str, optional
        The SuperLink's name in Flower's configuration; empty for the default one.
    resume : bool, optional
        True to resume the run in ``out``.
    config : Mapping of str to str, optional
        Further entries of the run's config.
    """

    anywhere = False
    """True if processes of the run may be on other hosts."""

    def __init__(
        self,
        superlink: SuperLink,
        app: Path,
        out: Path,
        on_line: Callable[[str], None],
        connection: str = "",
        resume: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self._superlink, self._app, self._on_line = superlink, app, on_line
        self._out, self._resume = out.resolve(), resume
        self._names = [connection] if connection else []
        self._config = dict(config or {})
        # unique, so that the run can be found by it; Flower accepts at most 32 characters
        self._name = f"{APP_NAME}-{time.time_ns():x}{os.getpid() & 0xFFF:03x}"
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._id: str | None = None
        self._over = False

    @property
    def run_id(self) -> str:
        """Flower's id of the run; empty before it has started."""
        return self._id or ""

    def execute(self, experiment_json: str, out: str, *arguments: str) -> None:
        """Run an experiment with ``flwr run``; raise ``RunError`` unless the run is completed.

        ``out`` is the run directory for the ServerApp, which chooses one if it is empty. Further
        ``arguments`` are added to the command line.
        """
        config = {"experiment": "", "set": "", "config": experiment_json, "out": out}
        config |= {"resume": out if self._resume else "", **self._config}
        table = json.loads(experiment_json)
        carried = CarriedFiles.of(table) if self.anywhere else None
        write_app(self._app, config, self._name, carried)
        self._out.mkdir(parents=True, exist_ok=True)
        command = ["run", str(self._app), *self._names, "--stream", *arguments]
        with (
            open(
                self._out / LOG_FILE, "a" if self._resume else "w", encoding="utf-8", opener=private
            ) as file,
            _process(self._superlink.flwr(*command), self._superlink) as process,
        ):
            watch = RunWatch(self._superlink.home, "".join(self._names), process.kill)
            try:
                for line in output_lines(process):
                    known = self._id is not None
                    self.log_line(line, file)
                    if self.anywhere and self._id is not None and not known:
                        watch.start(self._id)
            except BaseException:
                self.await_submission(process, file)
                raise
            finally:
                watch.stop()
        status, details = self._outcome()
        if status != _COMPLETED:
            reason = details or "\n".join(self._tail) or "Flower gave no reason"
            if _SILENT in details:
                reason += (
                    ": the process of the run's server was killed or got no CPU, or the machine "
                    "slept or its clock jumped; --resume goes on after the last checkpoint"
                )
            raise RunError(f"flwr run ended {status}: {reason}\n(its log: {self._out / LOG_FILE})")

    def await_submission(self, process: subprocess.Popen[str], file: TextIO) -> None:
        """Do nothing; a subclass may wait for the run's id after an error, before ``flwr`` ends."""

    def log_line(self, line: str, file: TextIO) -> None:
        """Write a line of output to the log ``file`` and pass it to ``on_line``.

        The first line that states the run's id sets the id of this run.
        """
        print(line, file=file, flush=True)
        if self._id is None and (started := started_run(line)):
            self._id = started
        self._on_line(line)
        if line.strip() and not line.startswith(_FOR_PROGRAMS):
            self._tail.append(line.strip())

    def _outcome(self) -> tuple[str, str]:
        """Wait until the run has ended; return its final status, and its details or "".

        If Flower never stated the run's id, the status is "before it started". ``RunError`` is
        raised if the SuperLink gives no valid answer for a minute.
        """
        if self._id is None:
            return "before it started", ""
        until = time.monotonic() + _ANSWER_SECONDS
        while True:
            listed = self.call("ls", *self._names, "--run-id", self._id, "--format", "json")
            try:
                run = dict(json.loads(listed.stdout)["runs"][0])
            except (json.JSONDecodeError, KeyError, IndexError) as error:
                if time.monotonic() > until:
                    output = (listed.stderr or listed.stdout).strip() or str(listed.returncode)
                    raise RunError(f"flwr ls does not answer: {output}") from error
            else:
                until = time.monotonic() + _ANSWER_SECONDS
                status = str(run["status"])
                if status.startswith("finished"):
                    self._over = True
                    details = str(run.get("status-details", ""))
                    return status, "" if details == "N/A" else details.removeprefix(_PREFIX)
            time.sleep(1.0)  # the stream of the log broke off before the run ended

    def call(
        self, *arguments: str, seconds: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``flwr`` with these arguments; return the ended process, whatever its exit status.

        After ``seconds`` it is killed and ``TimeoutExpired`` raised; None is no limit.
        """
        return subprocess.run(
            self._superlink.flwr(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(self._superlink.environment),
            text=True,
            check=False,
            timeout=seconds,
            start_new_session=True,  # so that Ctrl-C reaches only this process
        )


def output_lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield the lines that a process prints to stdout, without line ends and colour codes."""
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
        start_new_session=True,  # so that Ctrl-C reaches only this process, which then ends all
    )
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        with process:  # closes its pipe and waits for its end
            pass
