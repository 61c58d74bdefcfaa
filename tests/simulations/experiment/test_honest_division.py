"""``clients.divide-among = "honest"``: the data are divided among the clients without a fault."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.honest_division import divided_among_honest
from hqde_fl.simulations.run import run_experiment
from tests.simulations.odd_tasks import linear

HONEST = {"count": 7, "divide-among": "honest"}


def experiment(clients: dict[str, Any], **document: Any) -> Experiment:
    """Return an experiment on digits with three attackers, which are named."""
    faults = [{"name": "ipm", "clients": [0, 4]}, {"name": "label-flip", "clients": [5]}]
    return Experiment.parse({"rounds": 2, "clients": clients, "faults": faults, **document})


def parts_of(task: Task, clients: int) -> list[TensorDataset]:
    """Return the data of each client."""
    parts = [task.partition(client, clients) for client in range(clients)]
    assert all(isinstance(part, TensorDataset) for part in parts)
    return parts  # type: ignore[return-value]


@pytest.mark.parametrize("partition", ["iid", "gamma-similarity"])
def test_honest_clients_have_all_data_and_faulty_ones_a_copy(partition: str) -> None:
    honest = parts_of(experiment({**HONEST, "partition": partition}).load_task(), 7)
    alone = parts_of(
        Experiment.parse({"clients": {"count": 4, "partition": partition}}).load_task(), 4
    )
    for client, part in {1: 0, 2: 1, 3: 2, 6: 3, 0: 0, 4: 1, 5: 2}.items():
        assert torch.equal(honest[client].tensors[0], alone[part].tensors[0])
    for a, b in combinations((1, 2, 3, 6), 2):
        assert not torch.equal(honest[a].tensors[0][:5], honest[b].tensors[0][:5])


def test_without_faults_nothing_changes() -> None:
    clean = Experiment.parse({"clients": HONEST}).load_task()
    everybody = Experiment.parse({"clients": {"count": 7}}).load_task()
    pairs = zip(parts_of(clean, 7), parts_of(everybody, 7), strict=True)
    assert all(torch.equal(a.tensors[0], b.tensors[0]) for a, b in pairs)


def test_it_changes_the_model(tmp_path: Path) -> None:
    models = [
        run_experiment(
            experiment({**HONEST, "divide-among": among}),
            tmp_path / among,
            engine="inline",
            report=False,
        ).recorded.rounds[-1]["model-sha256"]
        for among in ("honest", "all")
    ]
    assert models[0] != models[1]


def test_what_leaves_open_who_is_honest_is_refused() -> None:
    changing = [{"name": "ipm", "count": 2, "resample": True}]
    with pytest.raises(
        ConfigError, match=r"faults that keep their clients, found 'ipm' with resam"
    ):
        Experiment.parse({"clients": HONEST, "faults": changing})
    with pytest.raises(ConfigError, match="needs an honest client, found 7 faulty ones of 7"):
        Experiment.parse({"clients": HONEST, "faults": [{"name": "zero", "count": 7}]})
    with pytest.raises(ConfigError, match=r"needs a clients\.count, found 'registered'"):
        Experiment.parse({"clients": {**HONEST, "count": "registered"}})
    with pytest.raises(ConfigError, match="divide-among"):
        Experiment.parse({"clients": {"divide-among": "faulty"}})


def test_data_that_the_nodes_hold_are_not_divided() -> None:
    def held(client: int, clients: int, node_config: Any) -> TensorDataset:
        raise AssertionError

    with pytest.raises(ConfigError, match="found a task whose data are on the nodes"):
        divided_among_honest(Task(model=linear, partition=held), {0}, 3)
