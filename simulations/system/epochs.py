"""Rounds of a federation as epochs of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord

from hqde_fl.code_origin import failure_text, origin
from hqde_fl.errors import HQDEError, RunError
from hqde_fl.simulations.recording.run_directory import round_line
from hqde_fl.strategies.callbacks import Callback, RoundRecord


class Epochs(Callback):
    """A callback that treats each round as an epoch and keeps a record of it.

    Parameters
    ----------
    show : Callable[[Mapping[str, Any]], None]
        Displays an epoch, given as a line of ``rounds.jsonl``.
    keep : Callable[[int, ArrayRecord], None]
        Called with each epoch's number and the model after it.
    validate : Callable[[ArrayRecord], Mapping[str, float]], optional
        Returns metrics of the model after an epoch.
    records : list[dict[str, Any]]
        The records of epochs, to which those of further epochs are added.
    """

    def __init__(
        self,
        show: Callable[[Mapping[str, Any]], None],
        keep: Callable[[int, ArrayRecord], None],
        validate: Callable[[ArrayRecord], Mapping[str, float]] | None,
        records: list[dict[str, Any]],
    ) -> None:
        self._show, self._keep, self._validate = show, keep, validate
        self._records = records

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Keep the model after the epoch, validate and show it, and add a record; ignore round 0.

        Raises
        ------
        RunError
            If no worker's update was kept, or if the validation failed: the epoch is kept then.
        """
        if record.round == 0:
            return
        if record.kept == 0:
            reason = next((client.reason for client in record.clients if client.reason), "no reply")
            raise RunError(f"epoch {record.round}: no worker could train: {reason}")
        self._keep(record.round, arrays)
        failure: Exception | None = None
        if self._validate is not None:
            try:
                record = replace(record, server=self._validate(arrays))
            except Exception as error:
                failure = error
        self._show(round_line(record))
        self._records.append(
            {
                "epoch": record.round,
                "train-loss": record.clients_train.get("train-loss"),
                **{f"validation-{name}": value for name, value in record.server.items()},
                "bytes-up": record.bytes_up,
                "bytes-down": record.bytes_down,
                "kept": record.kept,
                "asked": record.asked,
                "seconds": record.seconds,
            }
        )
        if failure is not None:
            own = isinstance(failure, HQDEError)
            reason = str(failure) if own else f"{failure_text(failure)}{origin(failure)}"
            raise RunError(
                f"the validation after epoch {record.round} failed: {reason}; the epoch is kept, "
                "and train(...) goes on after it"
            ) from failure
