"""A validation set is cut from the training data before it is divided, and measured beside test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.tasks import Digits
from hqde_fl.simulations.tasks.base import validation_split
from hqde_fl.simulations.tasks.partition import PARTITIONERS

DOCUMENT = {
    "rounds": 3,
    "task": {"name": "digits", "validation": 0.2},
    "clients": {"count": 3},
    "engine": {"name": "inline"},
}


def test_the_parts_are_the_training_data_divided() -> None:
    task = Digits(validation=0.1).build(PARTITIONERS.build({"name": "iid"}), 3)
    assert task.validation is not None
    sizes = [len(task.partition(number, 4)) for number in range(4)]  # type: ignore[arg-type]
    train, aside = validation_split(1438, 0.1, 3)
    assert (sum(sizes), len(task.validation())) == (len(train), len(aside)) == (1294, 144)  # type: ignore[arg-type]
    assert np.array_equal(np.sort(np.concatenate([train, aside])), np.arange(1438))
    assert not np.array_equal(aside, validation_split(1438, 0.1, 4)[1])
    with pytest.raises(ConfigError, match=r"Digits.validation must be in \[0, 1\), found 1"):
        Digits(validation=1.0)


def test_a_run_records_both_ends_early_and_keeps_its_best_model(tmp_path: Path) -> None:
    stopping = {"patience": 1, "min-delta": 1.0}  # nothing improves by that after the first value
    experiment = Experiment.parse(DOCUMENT | {"stopping": stopping})
    run_experiment(experiment, tmp_path / "a", report=False)
    run = Run.load(tmp_path / "a")
    assert {"accuracy", "loss", "validation/accuracy", "validation/loss"} == run.final.keys()
    assert (len(run.rounds), run.complete) == (2, True)
    assert "did not improve in 1 evaluations" in run.manifest["ended-early"]
    values = [line["server"]["validation/accuracy"] for line in run.rounds]
    best = run.manifest["best"]
    assert (best["metric"], best["round"], best["value"]) == (
        "validation/accuracy",
        int(np.argmax(values)),
        max(values),
    )
    weights = load_file(tmp_path / "a" / "best.safetensors")
    assert weights.keys() == load_file(tmp_path / "a" / "model.safetensors").keys()


def test_stopping_needs_a_validation_set() -> None:
    table = DOCUMENT | {"task": {"name": "digits"}, "stopping": {"patience": 1}}
    with pytest.raises(ConfigError, match=r"\[stopping\] needs a validation set"):
        Experiment.parse(table)
