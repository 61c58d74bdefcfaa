"""Every task that needs files, with its generated stand-in: it trains, and it learns."""

import math

import pytest
import torch

from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.tasks import TASKS
from hqde_fl.simulations.tasks.file_task import FileTask

SMALL = {
    "adult": ({}, "iid", 0.1),
    "cifar-10": ({"model": "lenet"}, "gamma-similarity", 0.02),
    "cifar-100": ({"model": "logistic"}, "iid", 0.0005),
    "covertype": ({}, "quantity-skew", 0.1),
    "fashion-mnist": ({"model": "mlp"}, "gamma-similarity", 0.1),
    "femnist": ({"model": "logistic"}, {"name": "users", "grouped": True}, 0.01),
    "mnist": ({"model": "logistic"}, {"name": "quantity-skew", "sizes": "power-law"}, 0.01),
    "shakespeare": ({"hidden": 24, "layers": 2}, {"name": "users", "grouped": True}, 1.0),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def file_tasks():
    return {name for name in TASKS if issubclass(TASKS[name], FileTask)}


def test_every_task_of_files_is_tried_here():
    assert set(SMALL) == file_tasks()


@pytest.mark.parametrize("name", SMALL)
def test_a_round_on_the_stand_in_improves_the_model(name, tmp_path):
    parameters, partition, lr = SMALL[name]
    table = {
        "rounds": 1,
        "seed": 1,
        "task": {"name": name, "data": "synthetic", "synthetic-examples": 240, **parameters},
        "clients": {
            "count": 3, "epochs": 3, "batch-size": 16, "lr": lr, "partition": partition,
        },
        "strategy": {"rule": "mean"},
        "engine": {"name": "inline"},
    }  # fmt: skip
    losses = []
    result = run_experiment(
        Experiment.parse(table),
        tmp_path / "run",
        report=False,
        on_round=lambda line: losses.append(line["server"]["loss"]),
    )
    assert result.final["loss"] == losses[-1] < losses[0]
    assert math.isfinite(losses[0])
