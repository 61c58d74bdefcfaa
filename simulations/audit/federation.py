"""Eleven clients around a tiny model; all but one are honest."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict

from hqde_fl.seeding import Seeds
from hqde_fl.simulations.audit.tamper import ARRAYS, BIAS, METRICS, STEPS, WEIGHT

CLIENTS = 11
CULPRIT = 4
"""The partition whose client misbehaves."""
Form = tuple[tuple[str, tuple[int, ...], str], ...]
NOISE = 0.005
"""Honest clients move every number by 1, give or take so much (standard deviation)."""
LOSS = 2.0
"""What every honest client reports when it evaluates."""


def start() -> ArrayRecord:
    """The initial model."""
    matrix = np.arange(48, dtype=np.float32).reshape(8, 6)
    return ArrayRecord(
        {WEIGHT: Array(matrix), BIAS: Array(np.zeros(6, np.float32)), STEPS: Array(np.array(3))}
    )


def count(partition: int) -> int:
    """How many examples a client has."""
    return 10 + partition


def honest(message: Message, partition: int) -> RecordDict:
    """What an honest client answers."""
    if message.metadata.message_type == MessageType.EVALUATE:
        return RecordDict(
            {METRICS: MetricRecord({"num-examples": count(partition), "eval-loss": LOSS})}
        )
    record = next(iter(message.content.array_records.values()))
    rng = Seeds(0).numpy("audit", partition, message.metadata.group_id)
    arrays = {}
    for name, array in record.items():
        values = array.numpy()
        step = 1 if name == STEPS else rng.normal(1, NOISE, values.shape)
        arrays[name] = Array(np.asarray(values + step).astype(values.dtype))
    metrics = MetricRecord({"num-examples": count(partition), "train-loss": 0.5})
    return RecordDict({ARRAYS: ArrayRecord(arrays), METRICS: metrics})


def deviation(arrays: ArrayRecord, rounds: int) -> float:
    """How far a model is from where honest clients take it: the largest difference of a number.

    NaN if the model has one. The honest step is 1 a round.
    """
    before = start()
    found = [
        np.abs(arrays[name].numpy().astype(np.float64) - before[name].numpy() - rounds).max()
        for name in (WEIGHT, BIAS)
    ]
    return float(np.max(found))


def form(arrays: ArrayRecord) -> Form:
    """Names, shapes and types of a model's arrays."""
    return tuple((name, tuple(array.shape), array.dtype) for name, array in arrays.items())
