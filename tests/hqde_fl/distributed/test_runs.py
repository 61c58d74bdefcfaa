"""Runs whose updates go to Ray, and that publish their model there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import ray
import torch
from flwr.app import ArrayRecord

from hqde_fl.distributed import stored_updates
from hqde_fl.distributed.auto_executor import AutoExecutor
from hqde_fl.distributed.store import DistributedWeightStore
from hqde_fl.errors import RunError
from hqde_fl.protocol.records import from_record
from hqde_fl.rules import Chain, Executor, GeometricMedian, MultiKrum, ThreadedExecutor, Tree
from hqde_fl.rules.clipping import ARC
from hqde_fl.selection import Ensemble
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.publish_model import PublishModel
from hqde_fl.updates.roles import Roles
from tests.strategies import ensembles
from tests.strategies.federation import MODEL, Recorder, crash, run, strategy_with

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("one_ray")]


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clients whose updates have gone to Ray."""
    clients: list[int] = []
    store = stored_updates.UpdateCollector.store

    def noted(self: Any, client: int, update: Any) -> Any:
        clients.append(client)
        return store(self, client, update)

    monkeypatch.setattr(stored_updates.UpdateCollector, "store", noted)
    return clients


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [MultiKrum(2), Chain(ARC(2), GeometricMedian()), Tree(fanout=4)], ids=str
)
def test_a_run_on_ray_is_the_run_in_this_process(rule: Any, stored: list[int]) -> None:
    def model(executor: Executor) -> Mapping[str, torch.Tensor]:
        strategy = strategy_with(Recorder(), rule=rule, density="always", executor=executor)
        return run(strategy, crash, rounds=3)

    here = model(ThreadedExecutor())
    assert not stored
    there = model(AutoExecutor(memory=0.0))
    assert stored == [*(k for k in range(10) if k != 4)] * 2  # not while roles are inferred
    for name, value in here.items():
        assert torch.equal(there[name], value)


@pytest.mark.parametrize(
    ("rule", "density", "objects"),
    [(Tree(fanout=4), "free", 1), (Tree(fanout=4), "always", 3), (MultiKrum(2), "free", 3)],
)
def test_only_a_tree_stores_an_update_in_one_piece(
    rule: Any, density: Any, objects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []
    store = stored_updates.UpdateCollector.store

    def noted(self: Any, client: int, update: Any) -> Any:
        row = store(self, client, update)
        pieces.append(len(row.parts))
        return row

    monkeypatch.setattr(stored_updates.UpdateCollector, "store", noted)
    monkeypatch.setattr(stored_updates, "shard_edges", lambda n, d, *_, **__: (0, 1, 2, d))
    roles = Roles({"layer.weight": "trainable", "layer.bias": "trainable", "steps": "counters"})
    executor = AutoExecutor(memory=0.0)
    strategy = strategy_with(Recorder(), rule=rule, density=density, roles=roles, executor=executor)
    run(strategy, rounds=1)
    assert pieces == [objects] * 10


def test_roles_that_are_known_and_members(stored: list[int]) -> None:
    roles = Roles({"layer.weight": "trainable", "layer.bias": "trainable", "steps": "counters"})
    strategy = strategy_with(Recorder(), roles=roles, executor=AutoExecutor(memory=0.0))
    run(strategy, rounds=1)
    assert stored == list(range(10))
    stored.clear()
    models = []
    for executor in (ThreadedExecutor(), AutoExecutor(memory=0.0)):
        ensemble = Ensemble(2, assignment="all")
        strategy = strategy_with(Recorder(), ensemble=ensemble, executor=executor)
        models.append(ensembles.run(strategy, ensembles.Clients(), rounds=2))
    assert len(stored) == 2 * 6
    for here, there in zip(*models, strict=True):
        assert torch.equal(here["w"], there["w"])


class Reader(Recorder):
    """Reads the model that was published in each round, in another process."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[int, int, float]] = []
        self.models: list[float] = []

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        self.read.append(ray.get(ray.remote(num_cpus=0)(read_latest).remote("run")))
        self.models.append(float(from_record(arrays)["layer.bias"][0]))


def read_latest(store: str) -> tuple[int, int, float]:
    latest = DistributedWeightStore.open(store).latest("global")
    return latest.version, latest.facts["round"], float(latest.weights["layer.bias"][0])


def test_the_model_of_a_running_federation_is_read_elsewhere() -> None:
    reader, publisher = Reader(), PublishModel("run", replicas=1)
    run(strategy_with(Recorder(), callbacks=[publisher, reader]), rounds=2)
    assert reader.read == [(k + 1, k, model) for k, model in enumerate(reader.models)]
    assert len(reader.read) == 3
    with pytest.raises(RunError, match="no weight store 'run'"):
        DistributedWeightStore.open("run")
    assert MODEL["layer.bias"][0] == reader.models[0]
