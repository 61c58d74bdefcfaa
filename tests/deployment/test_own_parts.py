"""Parts of the user's own on real nodes: the model is that of the simulation, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from hqde_fl.simulations.deploy import nodes
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

pytestmark = pytest.mark.deployment

FILE = Path(__file__).parents[1] / "simulations" / "experiment" / "study" / "own.toml"
CHANGES = [
    "clients.count=2",
    "strategy.selector.count=2",
    'strategy.rule={name="mine.py:Shortest", f=0}',
]


def test_two_nodes_give_the_result_of_the_simulation(tmp_path: Path) -> None:
    experiment = Experiment.load(FILE, CHANGES)
    run_experiment(experiment, tmp_path / "inline", report=False)
    federation = FederationDirectory.create(tmp_path / "federation", 2)
    with nodes.federation_up(federation, 2):
        run_experiment(
            experiment.on_engine("flower"), tmp_path / "nodes", superlink=str(federation.path)
        )
    runs = [Run.load(tmp_path / name) for name in ("inline", "nodes")]
    assert [line["kept"] for line in runs[1].rounds[1:]] == [2, 2]
    assert runs[0].final == runs[1].final
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("inline", "nodes")]
    assert models[0] == models[1]
