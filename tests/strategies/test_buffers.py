"""The next model gets the buffers of the clients that the rule has kept."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import MDA, Aggregator, ByzantineFilter, MultiKrum
from hqde_fl.simulations.engines.inline import InlineGrid
from tests.strategies.federation import Recorder, strategy_with

START = {
    "norm.weight": torch.zeros(20),
    "norm.running_mean": torch.zeros(5),
    "norm.num_batches_tracked": torch.tensor(0),
    "histogram": torch.zeros(2, dtype=torch.int32),
    "mask": torch.tensor([False, False]),
}
HONEST_COUNTS = (10, 11, 12, 13, 14)
"""Their median is 12; with two larger ones it would be 13."""
FAULTY = (1, 4)
"""Partitions of the two clients that the rule filters out."""


def norm_federation() -> InlineGrid:
    """Seven clients with a norm layer; two send weights, statistics and counters far off."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        state = from_record(message.content.array_records["arrays"])
        noise = 0.01 * torch.randn(20, generator=torch.Generator().manual_seed(partition))
        if partition in FAULTY:
            place, level, count, mask = 0, 100.0 * partition, 1000, [True, True]
        else:
            place = [p for p in range(7) if p not in FAULTY].index(partition)
            level, count, mask = 1.0, HONEST_COUNTS[place], [place < 2, place < 3]
        state["norm.weight"] += level + noise
        state["norm.running_mean"] += level + noise[:5]
        state["norm.num_batches_tracked"] += count
        state["histogram"] += torch.tensor([count, -count], dtype=torch.int32)
        state["mask"] = torch.tensor(mask)
        content = {"arrays": to_record(state), "metrics": MetricRecord({"num-examples": 10})}
        return Message(RecordDict(content), reply_to=message)

    return InlineGrid(app, 7, {}, seed=1)


@pytest.mark.parametrize("rule", [MultiKrum(2), MDA(2), ByzantineFilter()], ids=str)
def test_filtered_clients_have_no_say_in_the_buffers(rule: Aggregator) -> None:
    recorder = Recorder()
    strategy = strategy_with(recorder, rule=rule)
    model = from_record(strategy.start(norm_federation(), to_record(START), 1).arrays)
    kept = {client.partition for client in recorder.rounds[1].clients if client.kept}
    assert kept == set(range(7)) - set(FAULTY)
    assert int(model["norm.num_batches_tracked"]) == 12
    assert model["histogram"].tolist() == [12, -12]
    assert model["mask"].tolist() == [False, True]
    assert float((model["norm.running_mean"] - 1).abs().max()) < 0.05
    assert {name: tensor.dtype for name, tensor in model.items()} == {
        name: tensor.dtype for name, tensor in START.items()
    }
