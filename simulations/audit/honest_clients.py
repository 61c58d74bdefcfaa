"""The small model of the audit and its honest clients: 11, one of which a trial makes hostile."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict

from hqde_fl.seeding import Seeds
from hqde_fl.simulations.audit.message_changes import (
    ARRAYS,
    BIAS,
    MEAN,
    METRICS,
    STEPS,
    VARIANCE,
    WEIGHT,
)

CLIENTS = 11
CULPRIT = 4
"""Partition id of the hostile client."""
ModelSignature = tuple[tuple[str, tuple[int, ...], str], ...]
NOISE = 0.005
"""Standard deviation of an honest client's update, whose mean is 1 for every float."""
LOSS = 2.0
"""The loss that every honest client reports in evaluation."""


def initial_model() -> ArrayRecord:
    """Return the arrays of the initial model."""
    matrix = np.arange(48, dtype=np.float32).reshape(8, 6)
    return ArrayRecord(
        {
            WEIGHT: Array(matrix),
            BIAS: Array(np.zeros(6, np.float32)),
            MEAN: Array(np.zeros(6, np.float32)),
            VARIANCE: Array(np.ones(6, np.float32)),
            STEPS: Array(np.array(3)),
        }
    )


def example_count(partition: int) -> int:
    """Return the number of examples of the client with this partition id: 10 more than the id."""
    return 10 + partition


def honest_content(message: Message, partition: int) -> RecordDict:
    """Return the content of an honest client's reply to a message."""
    if message.metadata.message_type == MessageType.EVALUATE:
        return RecordDict(
            {METRICS: MetricRecord({"num-examples": example_count(partition), "eval-loss": LOSS})}
        )
    record = next(iter(message.content.array_records.values()))
    rng = Seeds(0).numpy("audit", partition, message.metadata.group_id)
    arrays = {}
    for name, array in record.items():
        values = array.numpy()
        step = 1 if name == STEPS else rng.normal(1, NOISE, values.shape)
        arrays[name] = Array(np.asarray(values + step).astype(values.dtype))
    metrics = MetricRecord({"num-examples": example_count(partition), "train-loss": 0.5})
    return RecordDict({ARRAYS: ArrayRecord(arrays), METRICS: metrics})


def deviation(arrays: ArrayRecord, rounds: int) -> float:
    """Return the largest absolute difference of a float from its value under honest training.

    The honest update is 1 in each of ``rounds`` rounds. The counter is not compared. The result is
    NaN if the model contains NaN.
    """
    before = initial_model()
    differences = [
        np.abs(arrays[name].numpy().astype(np.float64) - before[name].numpy() - rounds).max()
        for name in (WEIGHT, BIAS, MEAN, VARIANCE)
    ]
    return float(np.max(differences))


def model_signature(arrays: ArrayRecord) -> ModelSignature:
    """Return the names, shapes and dtypes of a model's arrays."""
    return tuple((name, tuple(array.shape), array.dtype) for name, array in arrays.items())
