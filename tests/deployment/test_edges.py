"""Two edges with two SuperNodes each: three SuperLinks and six SuperNodes, all real processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hqde_fl.simulations.deploy import nodes
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.nodes import status
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

pytestmark = pytest.mark.drills

PATIENCE = 1800.0
"""Maximum time to wait for anything."""
EXPERIMENT = Experiment.parse(
    {
        "name": "edges",
        "seed": 5,
        "rounds": 1,
        "clients": {"count": 4, "epochs": 2, "lr": 0.2},
        "edges": {"groups": 2, "rounds": 2, "nodes": True},
        "strategy": {"deadline": 600.0},
        "engine": {"name": "flower"},
    }
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederationDirectory]:
    """A federation with two edges of two nodes each."""
    path = tmp_path_factory.mktemp("edges") / "federation"
    made = FederationDirectory.create_with_edges(path, 2, 2)
    with nodes.federation_up(made, seconds=PATIENCE):
        yield made


def test_the_model_is_that_of_the_simulation(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    run_experiment(EXPERIMENT, tmp_path / "real", superlink=str(federation.path), report=False)
    experiment = Experiment.parse(EXPERIMENT.to_table(), ["edges.nodes=false"])
    run_experiment(experiment, tmp_path / "simulated", engine="inline", report=False)
    real, simulated = (
        load_file(tmp_path / name / "model.safetensors") for name in ("real", "simulated")
    )
    for name, tensor in simulated.items():
        torch.testing.assert_close(real[name], tensor, rtol=0, atol=1e-5)
    levels = Run.load(tmp_path / "real").rounds[-1]["edges"]
    assert levels["client-edge"]["bytes-up"] > 3 * levels["edge-cloud"]["bytes-up"]


def test_an_edge_that_is_killed_costs_its_group_and_not_the_run(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    running = threading.Thread(
        target=run_experiment,
        args=(EXPERIMENT, tmp_path / "run"),
        kwargs={"superlink": str(federation.path), "report": False},
    )
    running.start()
    jobs = FederationDirectory.load(federation.edge_paths[1]).home / "edges" / "edge-1"
    until = time.monotonic() + PATIENCE
    while not list(jobs.glob("job-*")):
        assert time.monotonic() < until
        time.sleep(0.1)
    current = status(federation)
    assert current is not None
    (edge,) = [report for report in current.processes if report.name == "node-1"]
    assert edge.pid is not None
    os.kill(edge.pid, signal.SIGKILL)
    running.join(PATIENCE)
    assert not running.is_alive()
    recorded = Run.load(tmp_path / "run")
    last = recorded.rounds[-1]
    assert recorded.manifest["status"] == "finished"
    assert (last["asked"], last["kept"], last["failed"] + last["late"]) == (2, 1, 1)


def test_nodes_of_one_superlink_belong_to_the_edges_that_their_configs_name(tmp_path: Path) -> None:
    named = Experiment.parse(
        EXPERIMENT.to_table(), ["edges.nodes=false", "edges.groups=node", "edges.count=2"]
    )
    made = FederationDirectory.create(tmp_path / "federation", 4, groups=2)
    with nodes.federation_up(made, seconds=PATIENCE):
        run_experiment(named, tmp_path / "real", superlink=str(made.path), report=False)
    run_experiment(named, tmp_path / "simulated", engine="inline", report=False)
    recorded = Run.load(tmp_path / "real")
    assert {c["partition"]: c["edge"] for c in recorded.clients} == {p: p % 2 for p in range(4)}
    assert recorded.rounds[-1]["edges"]["without-edge"] == 0
    real, simulated = (
        load_file(tmp_path / name / "model.safetensors") for name in ("real", "simulated")
    )
    for name, tensor in simulated.items():
        torch.testing.assert_close(real[name], tensor, rtol=0, atol=1e-5)
