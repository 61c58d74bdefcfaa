"""The next model gets the statistics and counters of the clients, which are not trained."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import MDA, Aggregate, Aggregator, ByzantineFilter, Krum, Mean, MultiKrum
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.round.other_entries import mean_entries, median_entries, merge_others
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


def entries(values: list[float]) -> list[dict[str, torch.Tensor]]:
    return [{"variance": torch.tensor([value, 1.0])} for value in values]


def outcome(kept: list[bool], influence: list[float]) -> Aggregate:
    filtered = ~torch.tensor(kept)
    counted = torch.tensor(influence, dtype=torch.float64)
    return Aggregate(torch.zeros(1), counted, filtered, {}, {})


def test_under_the_mean_statistics_are_weighted_like_the_updates() -> None:
    replies = entries([1.0, 2.0, 4.0])
    merged = merge_others(Mean(), outcome([True] * 3, [0.5, 0.25, 0.25]), replies)
    assert merged["variance"].tolist() == [2.0, 1.0]


def test_a_rule_that_keeps_one_client_does_not_take_its_statistics() -> None:
    replies = entries([5.0, 1.0, 2.0, 3.0, 1e6])
    one = [False, False, False, False, True]
    merged = merge_others(Krum(1), outcome(one, [0.0, 0.0, 0.0, 0.0, 1.0]), replies)
    assert merged["variance"].tolist() == [3.0, 1.0]


def test_statistics_are_those_of_the_kept_if_these_outvote_the_faulty() -> None:
    replies = entries([1.0, 2.0, 3.0, 4.0, 1e6])
    most = [True, True, True, True, False]
    merged = merge_others(MultiKrum(1), outcome(most, [0.25] * 4 + [0.0]), replies)
    assert merged["variance"].tolist() == [2.0, 1.0]


def test_equal_values_keep_their_bits_in_a_mean() -> None:
    third = torch.full((5,), 1 / 3)
    merged = mean_entries([{"a": third}] * 3)
    assert torch.equal(merged["a"], third)


def test_the_median_is_the_lower_one_in_every_dtype() -> None:
    counts = [{"n": torch.tensor([value, 1])} for value in (1, 2, 3, 10**12)]
    assert median_entries(counts)["n"].tolist() == [2, 1]
    flags = [{"m": torch.tensor([flag])} for flag in (True, True, False)]
    assert median_entries(flags)["m"].tolist() == [True]
    pairs = [{"z": torch.tensor([complex(value, -value)])} for value in (1.0, 2.0, 9.0)]
    assert median_entries(pairs)["z"].tolist() == [2 - 2j]
    halves = [{"h": torch.tensor([value], dtype=torch.bfloat16)} for value in (1.0, 2.0, 9.0)]
    assert median_entries(halves)["h"].dtype == torch.bfloat16
