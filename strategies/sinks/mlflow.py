"""Send the numbers of each round to MLflow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hqde_fl.strategies.sinks.sink import Sink, flat_table

MAX_PARAMETERS = 100
"""Parameters that one request may carry."""

MAX_PARAMETER_LENGTH = 500

HTTP_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Environment variables by which a server that does not answer holds up a round for seconds only;
MLflow's own defaults are minutes."""

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


@dataclass(eq=False)
class MLflow(Sink):
    """Sends metrics and parameters to MLflow, on a server or in local files.

    Parameters
    ----------
    tracking_uri : str, default=""
        Address of the server, or ``sqlite:///FILE``; that of ``MLFLOW_TRACKING_URI`` or MLflow's
        own default if empty.
    experiment : str, default="hqde-fl"
        Name of the MLflow experiment that the run is a part of.
    """

    extra: ClassVar[str] = "mlflow"
    module: ClassVar[str] = "mlflow"

    tracking_uri: str = ""
    experiment: str = "hqde-fl"

    _run = ""

    def open(self) -> None:
        """Begin a run of MLflow; a resumed run goes on with the one it had."""
        for name, value in HTTP_DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self.handle = MlflowClient(self.tracking_uri or None)
        self._run = self.stored_id(self._new_run)
        self.handle.update_run(self._run, status="RUNNING")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send the numbers of a round."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
        self.handle.log_batch(self._run, metrics=metrics)

    def close(self, status: str) -> None:
        """End the run."""
        if self._run:
            self.handle.set_terminated(self._run, _STATUS[status])

    def _new_run(self) -> str:
        """Begin a run, in an MLflow experiment that is made if it is missing; return its id."""
        from mlflow.entities import Param

        found = self.handle.get_experiment_by_name(self.experiment)
        number = found.experiment_id if found else self.handle.create_experiment(self.experiment)
        name = self.path.name if self.path else None
        run = str(self.handle.create_run(number, run_name=name).info.run_id)
        parameters = [
            Param(key, _text(value)[:MAX_PARAMETER_LENGTH])
            for key, value in flat_table(self.table).items()
        ]
        for start in range(0, len(parameters), MAX_PARAMETERS):
            self.handle.log_batch(run, params=parameters[start : start + MAX_PARAMETERS])
        return run


def _text(value: Any) -> str:
    """Return a value as the text of a parameter, which must not be empty."""
    return (value if isinstance(value, str) else json.dumps(value)) or "-"
