"""One ``flwr run`` on a SuperLink with real nodes, which is stopped if it is interrupted."""

from __future__ import annotations

import json
import subprocess
import threading
from logging import WARNING
from typing import TextIO

from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.engines.flower.flower_run import FlowerRun, output_lines

_SUBMIT_SECONDS = 8.0  # for ``flwr run`` to say which run it has started
_STOP_SECONDS = 20.0  # for ``flwr stop``, and for ``flwr ls`` before it


class DeployedRun(FlowerRun):
    """One ``flwr run`` on a SuperLink that stays up and has to be told to stop the run."""

    anywhere = True

    def await_submission(self, process: subprocess.Popen[str], file: TextIO) -> None:
        """Log the output of ``flwr run`` until it states the run's id; kill it after 8 seconds.

        Nothing is done if the id is known or the run has ended.
        """
        if self._id is not None or self._over:
            return
        with uninterrupted():
            timer = threading.Timer(_SUBMIT_SECONDS, process.kill)
            timer.start()
            try:
                for line in output_lines(process):
                    self.log_line(line, file)
                    if self._id is not None:
                        break
            finally:
                timer.cancel()

    def stop(self) -> None:
        """Tell the SuperLink to stop the run, unless it has ended; log a warning if that fails."""
        if self._over:
            return
        try:
            for number in [self._id] if self._id is not None else self._unfinished_ids():
                stopped = self.call("stop", number, *self._names, seconds=_STOP_SECONDS)
                if stopped.returncode:
                    output = (stopped.stderr or stopped.stdout).strip()
                    log(WARNING, "flwr stop %s: %s", number, output)
        except subprocess.TimeoutExpired as error:
            command = " ".join(["flwr", *map(str, error.cmd[1:])])
            log(WARNING, "%s does not answer: the run may go on", command)

    def _unfinished_ids(self) -> list[str]:
        """Return the ids of the unfinished runs of this run's app, which ``flwr ls`` lists.

        The list is empty if the output of ``flwr ls`` is not valid.
        """
        listed = self.call("ls", *self._names, "--format", "json", seconds=_STOP_SECONDS)
        try:
            runs = json.loads(listed.stdout)["runs"]
        except (json.JSONDecodeError, KeyError):
            return []
        return [
            str(run["run-id"])
            for run in runs
            if run.get("fab-name") == self._name and not str(run["status"]).startswith("finished")
        ]
