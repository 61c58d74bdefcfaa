"""A process that runs cells of a sweep: jobs come as lines of JSON on stdin, news go to stdout.

It lives as long as its stdin: when the sweep's own process ends, however it ends, so does this one,
in the middle of a cell too.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, final

from hqde_fl.simulations.experiment import own_modules
from hqde_fl.simulations.experiment.model import Experiment


@final
class Worker:
    """The sweep's end of such a process.

    Parameters
    ----------
    log : Path
        Where its stderr goes.
    inherited : int
        A file descriptor that it keeps open while it lives.
    """

    def __init__(self, log: Path, inherited: int) -> None:
        path = os.pathsep.join(each for each in sys.path if each)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                # -P: a module in the working directory must not hide one of hqde-fl
                [sys.executable, "-P", "-m", "hqde_fl.simulations.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                pass_fds=(inherited,),
                start_new_session=True,  # Ctrl-C is the sweep's to handle
                env=os.environ | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"},
            )

    def run(self, experiment: Experiment, out: Path) -> Iterator[Mapping[str, Any]]:
        """Run a cell: a line of ``rounds.jsonl`` for each round, and last ``{"error": ...}``."""
        job = {
            "experiment": experiment.to_json(),
            "out": str(out),
            "folders": own_modules.looked_in(),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                news = json.loads(line)
                yield news
                if "error" in news:
                    return
        except BrokenPipeError:
            pass
        yield {"error": f"RunError: its process ended with exit status {self._process.wait()}"}

    @property
    def alive(self) -> bool:
        """Whether it can take another cell."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # of what was never read
                    continue
        self._process.wait()


def main() -> None:
    """Take jobs until stdin ends."""
    news = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what anybody prints is no news
    logging.getLogger("flwr").setLevel(logging.WARNING)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, jobs), daemon=True).start()
    from hqde_fl.simulations.sweep.cell_run import carry_out

    def tell(line: Mapping[str, Any]) -> None:
        news.write(json.dumps(line) + "\n")

    while True:
        job = json.loads(jobs.get())
        own_modules.look_in(job["folders"])
        error = carry_out(Experiment.from_json(job["experiment"]), Path(job["out"]), tell)
        tell({"error": error})


def _listen(stdin: IO[str], jobs: queue.SimpleQueue[str]) -> None:
    for line in stdin:
        jobs.put(line)
    os._exit(1)  # nobody is left to tell


if __name__ == "__main__":
    main()
