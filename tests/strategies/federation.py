"""A federation of ten clients around a tiny model, with one client that can misbehave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from hqde_fl.errors import RunError
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import Mean
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.callbacks import Callback, ClientRecord, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Aggregation, Communication, Participation, Reporting

MODEL = {
    "layer.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "layer.bias": torch.zeros(2),
    "steps": torch.tensor(3),
}
HOSTILE = 4
"""The partition whose client misbehaves."""


class Recorder(Callback):
    """Keeps the record of every round."""

    def __init__(self) -> None:
        self.rounds: list[RoundRecord] = []

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        self.rounds.append(record)

    def client(self, partition: int, round_: int = -1) -> ClientRecord:
        return next(c for c in self.rounds[round_].clients if c.partition == partition)


Tamper = Callable[[RecordDict], RecordDict | None]


def honest(message: Message, context: Context) -> RecordDict:
    """Return the reply of a client that adds one and its own small noise to every weight."""
    partition = int(context.node_config["partition-id"])
    state = from_record(message.content.array_records["arrays"])
    noise = torch.Generator().manual_seed(partition)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            trained = tensor + 1 + 0.01 * torch.randn(tensor.shape, generator=noise)
            state[name] = trained.to(tensor.dtype)
        else:
            state[name] = tensor + 1
    metrics = MetricRecord({"num-examples": 10 + partition, "train-loss": 0.5})
    return RecordDict({"arrays": to_record(state), "metrics": metrics})


def federation(tamper: Tamper | None, partitions: int = 10, mods: Sequence[Mod] = ()) -> InlineGrid:
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        content = honest(message, context)
        if tamper is not None and context.node_config["partition-id"] == HOSTILE:
            content = tamper(content)
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 5, "eval-loss": 2.0})
        if tamper is not None and context.node_config["partition-id"] == HOSTILE:
            metrics = MetricRecord({"num-examples": -1, "eval-loss": 1e30})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return InlineGrid(app, partitions, {}, seed=1)


def run(
    strategy: HQDEStrategy, tamper: Tamper | None = None, rounds: int = 2, partitions: int = 10
) -> dict[str, torch.Tensor]:
    grid = federation(tamper, partitions)
    return from_record(strategy.start(grid, to_record(MODEL), rounds).arrays)


def run_void(
    strategy: HQDEStrategy, tamper: Tamper | None = None, rounds: int = 2, partitions: int = 10
) -> dict[str, torch.Tensor]:
    """Return the model after a run that raises because no round produced an aggregate."""
    with pytest.raises(RunError, match="no round produced an aggregate"):
        run(strategy, tamper, rounds, partitions)
    assert strategy.state is not None
    return from_record(strategy.state.arrays())


GROUPS = (Aggregation, Communication, Participation, Reporting)


def strategy_with(recorder: Recorder, **options: Any) -> HQDEStrategy:
    """Build a strategy from the fields of all groups, given as flat options."""
    flat = {"rule": Mean(), "fraction_evaluate": 0.0, "identify": True, "callbacks": [recorder]}
    flat |= options
    groups: dict[str, Any] = {}
    for group in GROUPS:
        names = [part.name for part in fields(group) if part.name in flat]
        groups[group.__name__.lower()] = group(**{name: flat.pop(name) for name in names})
    return HQDEStrategy(**groups, **flat)


def change(name: str, array: Array) -> Tamper:
    def tamper(content: RecordDict) -> RecordDict:
        content.array_records["arrays"][name] = array
        return content

    return tamper


def weight(values: np.ndarray) -> Tamper:
    return change("layer.weight", Array(values))


def metric(name: str, value: float | list[float]) -> Tamper:
    def tamper(content: RecordDict) -> RecordDict:
        content.metric_records["metrics"][name] = value  # type: ignore[assignment]
        return content

    return tamper


def crash(content: RecordDict) -> RecordDict:
    raise ValueError("out of luck")


def without(*path: str) -> Tamper:
    def tamper(content: RecordDict) -> RecordDict:
        record = content if len(path) == 1 else content[path[0]]
        del record[path[-1]]  # type: ignore[union-attr]
        return content

    return tamper


def extra(name: str, record: ArrayRecord | MetricRecord) -> Tamper:
    def tamper(content: RecordDict) -> RecordDict:
        content[name] = record
        return content

    return tamper
