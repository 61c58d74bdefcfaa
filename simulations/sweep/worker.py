"""A process that runs cells of a sweep: cells come as lines of JSON on stdin, rounds go to stdout.

It lives as long as its stdin: when the sweep's own process ends, however it ends, so does this one,
in the middle of a cell too.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, final

from hqde_fl.errors import RunError
from hqde_fl.given_objects import given_objects
from hqde_fl.private_files import private
from hqde_fl.simulations.engines.torch_settings import TorchSettings
from hqde_fl.simulations.experiment import own_modules
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.object_transfer import objects_from_text, objects_to_text
from hqde_fl.simulations.recording.run_follower import OnRound


@final
class CellWorker:
    """A worker process as the sweep uses it; it runs cells, and is started for the first one.

    Parameters
    ----------
    log : Path
        File for the process's stderr.
    inherited : int
        File descriptor that the process keeps open while it lives.
    """

    def __init__(self, log: Path, inherited: int) -> None:
        self._log, self._inherited = log, inherited
        self._process: subprocess.Popen[str] | None = None
        self._starting, self._closed = threading.Lock(), False

    def run(self, experiment: Experiment, out: Path, on_round: OnRound) -> str | None:
        """Run a cell in the process; return its error in one line, or None if it finished.

        A process that ends during the cell is an error, too. After ``close``, ``RunError`` is
        raised.

        Parameters
        ----------
        experiment : Experiment
            The cell's experiment.
        out : Path
            Its run directory.
        on_round : Callable
            Called with each line of ``rounds.jsonl``.
        """
        process = self._running()
        job = {
            "experiment": experiment.to_json(),
            "objects": objects_to_text(experiment.objects),
            "out": str(out),
            "folders": [*filter(None, [experiment.folder]), *own_modules.added_folders()],
            "torch": dataclasses.asdict(TorchSettings.current()),
        }
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                news = json.loads(line)
                if "error" in news:
                    error: str | None = news["error"]
                    return error
                on_round(news)
        except BrokenPipeError:
            with suppress(BrokenPipeError):  # of the line that was not read
                process.stdin.close()
        return f"RunError: its process ended with exit status {process.wait()}"

    def close(self) -> None:
        """Kill the process, if there is one; ``run`` starts none afterwards."""
        with self._starting:
            self._closed = True
        if self._process is not None:
            self._process.kill()
            with self._process:  # closes the pipes and waits
                pass

    def _running(self) -> subprocess.Popen[str]:
        """Return the process, a new one if none is running; raise ``RunError`` after ``close``."""
        with self._starting:
            if self._closed:
                raise RunError("the sweep has ended")
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            return self._process

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(folder for folder in sys.path if folder)
        with open(self._log, "ab", opener=private) as errors:
            return subprocess.Popen(
                # -P: a module in the working directory must not hide one of hqde-fl
                [sys.executable, "-P", "-m", "hqde_fl.simulations.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                pass_fds=(self._inherited,),
                start_new_session=True,  # Ctrl-C is the sweep's to handle
                env=os.environ | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"},
            )


def main() -> None:
    """Run each cell that a line on stdin describes; write its rounds and its error to stdout."""
    news = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what the user's own code prints goes to the log
    logging.getLogger("flwr").setLevel(logging.WARNING)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin, jobs), daemon=True).start()
    from hqde_fl.simulations.sweep.cell_run import run_cell

    def send(line: Mapping[str, Any]) -> None:
        news.write(json.dumps(line) + "\n")

    while True:
        job = json.loads(jobs.get())
        own_modules.add_folders(job["folders"])
        TorchSettings(**job["torch"]).adopt()
        with given_objects(objects_from_text(job["objects"])):
            experiment = Experiment.from_json(job["experiment"])
        error = run_cell(experiment, Path(job["out"]), send)
        send({"error": error})


def _read(stdin: IO[str], jobs: queue.SimpleQueue[str]) -> None:
    """Put each line of stdin into ``jobs``; end this process with status 1 when stdin ends."""
    for line in stdin:
        jobs.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()
