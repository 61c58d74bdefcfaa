"""Keep the best model of a run by a metric, and say in the manifest which round it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from hqde_fl.protocol.records import from_record
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.file_names import BEST_MODEL, ROUNDS
from hqde_fl.simulations.recording.manifest import add_to_manifest
from hqde_fl.simulations.recording.recorded_run import read_lines
from hqde_fl.simulations.recording.weights_file import weights_to_bytes
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.stopping import EarlyStopping


class BestModel(Callback):
    """Writes ``best.safetensors`` whenever a round is the best one so far.

    What is best follows from ``rounds.jsonl``, which a resumed run reads again. A model that was
    written after the checkpoint it resumes from is written once more, the same.

    Parameters
    ----------
    path : Path
        The run directory.
    stopping : EarlyStopping
        Follows the metric.
    """

    def __init__(self, path: Path, stopping: EarlyStopping) -> None:
        self._path, self._stopping = path, stopping

    def resume(self) -> None:
        """Observe the rounds that are in the run directory."""
        for line in read_lines(self._path / ROUNDS):
            self._stopping.observe(line["round"], line["server"])

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Observe a round, and write its model if it is the best one."""
        if self._stopping.observe(record.round, record.server):
            replace_file(self._path / BEST_MODEL, weights_to_bytes(from_record(arrays)))

    def on_end(self, arrays: ArrayRecord) -> None:
        """Record the best round in the manifest."""
        best: dict[str, Any] = {
            "metric": self._stopping.metric,
            "round": self._stopping.best_round,
            "value": self._stopping.best,
        }
        add_to_manifest(self._path, {"best": best})
