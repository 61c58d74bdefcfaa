"""Edges as nodes, whose runs on their own SuperLinks are replaced by ones in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message
from safetensors.torch import load_file

from hqde_fl.clients.initial_state import initial_roles, initial_state
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.protocol.wrapped_grid import WrappedGrid
from hqde_fl.simulations.client_app import build_app
from hqde_fl.simulations.edges.edge_app import edge_app
from hqde_fl.simulations.edges.edge_home import EDGE_HOME
from hqde_fl.simulations.edges.edge_job import JOB, EdgeJob, serve_job
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Reporting
from tests.simulations.edges.test_experiment_edges import line

STATEFUL: dict[str, Any] = {
    "edges": {"groups": 2, "rounds": 2, "rule": "centered-clipping", "codec": "quantized"},
    "clients": {"count": 6},
    "faults": [
        {"name": "mimic", "clients": [0]},
        {"name": "stale", "clients": [1], "level": "edge"},
    ],
    "rounds": 3,
}


class OwnSuperLink:
    """Runs the jobs of edges on grids in this process, one for each edge."""

    def __init__(self, experiment: Experiment) -> None:
        task = experiment.load_task()
        count = experiment.clients.count
        self.grid = InlineGrid(build_app(experiment, task), count, {}, experiment.seed)
        self.jobs: list[EdgeJob] = []
        self.fail: set[int] = set()

    def launch(self, home: Path, experiment: Experiment, config: Mapping[str, str]) -> None:
        job = EdgeJob.read(Path(config[JOB]))
        self.jobs.append(job)
        if job.edge in self.fail:
            raise RunError("flwr run ended finished:failed: no luck")
        edges = experiment.parts.edges
        assert edges is not None
        group = edges.settings.groups.clients(edges.clients)[job.edge]
        serve_job(_Group(self.grid, group), experiment, Path(config[JOB]))


class _Group(WrappedGrid):
    """A view of a group's nodes."""

    def __init__(self, grid: InlineGrid, clients: list[int]) -> None:
        super().__init__(grid)
        self._nodes = [grid.get_node_ids()[client] for client in clients]

    def get_node_ids(self) -> list[int]:
        return self._nodes

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)


class Rounds(Callback):
    """Keeps the records of a run."""

    def __init__(self) -> None:
        self.records: list[RoundRecord] = []

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        self.records.append(record)


def run_root(
    experiment: Experiment, home: Path, link: OwnSuperLink, rounds: int
) -> tuple[dict[str, torch.Tensor], list[RoundRecord]]:
    """Run the root over edges that are clients of an inline grid."""
    parts = experiment.parts
    assert parts.edges is not None
    own, task, recorded = parts.edges.settings, experiment.load_task(), Rounds()
    grid = InlineGrid(edge_app(experiment, link.launch), parts.edges.count, {}, seed=1)
    for edge, context in enumerate(grid._contexts.values()):
        context.node_config[EDGE_HOME] = str(home / str(edge))
    strategy = HQDEStrategy(
        parts.aggregation,
        communication=parts.edges.communication,
        participation=own.root_participation,
        ensemble=own.root_ensemble,
        reporting=Reporting([recorded]),
        seed=experiment.seed,
        roles=initial_roles(task),
    )
    start = to_record(initial_state(task, 1, parts.seeds))
    try:
        return from_record(strategy.start(grid, start, rounds).arrays), recorded.records
    finally:
        grid.close()
        link.grid.close()


def test_nodes_that_are_edges_give_the_model_of_the_simulation(tmp_path: Path) -> None:
    """The rule's, the attackers' and the fault's memory go from round to round."""
    experiment = line(**STATEFUL)
    run_experiment(experiment, tmp_path / "run", report=False)
    model, records = run_root(experiment, tmp_path, OwnSuperLink(experiment), 3)
    assert [record.kept for record in records[1:]] == [2, 2, 2]
    for name, tensor in load_file(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(model[name], tensor, rtol=0, atol=1e-6)
    reported = records[-1].clients_train
    assert reported["client-bytes-up"] > 0
    assert [path.name for path in tmp_path.rglob("*.safetensors") if "job" in path.name] == []


def test_an_edge_whose_run_fails_costs_its_group_alone(tmp_path: Path) -> None:
    link = OwnSuperLink(experiment := line(edges={"groups": 2}))
    link.fail.add(1)
    _, records = run_root(experiment, tmp_path, link, 1)
    (failed,) = [client for client in records[-1].clients if not client.kept]
    assert failed.reason == "failed: edge 1: flwr run ended finished:failed: no luck"


def test_an_edge_forgets_the_state_of_an_earlier_run(tmp_path: Path) -> None:
    experiment = line(**STATEFUL)
    first, _ = run_root(experiment, tmp_path, OwnSuperLink(experiment), 2)
    link = OwnSuperLink(experiment)
    second, _ = run_root(experiment, tmp_path, link, 2)
    assert [job.state is None for job in link.jobs] == [True, True, False, False]
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_clients_evaluate_through_edges_that_are_nodes(tmp_path: Path) -> None:
    experiment = line(edges={"groups": 2}, strategy={"fraction-evaluate": 1.0})
    _, records = run_root(experiment, tmp_path, OwnSuperLink(experiment), 1)
    assert records[-1].clients_evaluate["eval-rmse"] > 0


def test_a_node_that_is_an_edge_needs_edges() -> None:
    with pytest.raises(ConfigError, match=r"edge-home is an edge: it needs edges\.groups"):
        edge_app(line())
