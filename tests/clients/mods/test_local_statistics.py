"""Local statistics: each client keeps its own, and the server's model those that it began with."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.initial_state import initial_roles, initial_state
from hqde_fl.clients.mods.local_statistics import STATISTICS
from hqde_fl.clients.task import Task
from hqde_fl.codec import Quantized
from hqde_fl.errors import UnknownNameError
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import Median
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.settings import Aggregation
from tests.strategies.federation import Recorder, strategy_with

CLIENTS = 3


def data(level: float) -> TensorDataset:
    generator = torch.Generator().manual_seed(int(level))
    x = level + torch.randn(64, 4, generator=generator)
    return TensorDataset(x, (x[:, 0] > level).long())


TASK = Task(
    lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)),
    lambda partition, count: data(100.0 * partition),
    lambda: data(0.0),
)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("codec", [None, Quantized(4)], ids=str)
def test_each_client_trains_and_evaluates_with_its_own_statistics(
    members: int, codec: Quantized | None
) -> None:
    recorder, start = Recorder(), initial_state(TASK, members, Seeds(0))
    packing = {} if codec is None else {"codec": codec, "downlink": codec}
    strategy = strategy_with(
        recorder,
        rule=Median(),
        buffers="local",
        roles=initial_roles(TASK),
        ensemble=Ensemble(members),
        fraction_evaluate=1.0,
        **packing,
    )
    grid = InlineGrid(ensemble_app(TASK, members=members), CLIENTS, {}, seed=1)
    final = from_record(strategy.start(grid, to_record(start), 40).arrays)
    means = [name for name in start if name.endswith("running_mean")]
    assert len(means) == members
    for partition, state in grid.contexts(range(CLIENTS)).items():
        own = from_record(state.array_records[STATISTICS])
        for name in means:
            assert torch.equal(final[name], start[name])
            assert float((own[name] - 100 * partition).abs().max()) < 1
    assert all(record.kept == CLIENTS for record in recorder.rounds[1:])
    assert recorder.rounds[-1].clients_evaluate["eval-accuracy"] > 0.9


def test_a_misspelt_way_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'local'"):
        Aggregation(buffers="locl")  # type: ignore[arg-type]
