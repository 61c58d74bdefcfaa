"""Kinds of models end with the same bits on all engines, and after a resumption."""

from __future__ import annotations

from pathlib import Path

import pytest

from hqde_fl.simulations.experiment.experiment import APP_ROOT, Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

ON_ENGINES = {
    "batch-norm-2d": {"rule": "median", "codec": {"name": "quantized", "bits": 4}},
    "gru-state": {"server-optimizer": "adam", "codec": {"name": "error-feedback"}},
    "mlp": {"rule": "median"},
    "lora": {"downlink": {"name": "quantized", "bits": 4}, "codec": {"name": "error-feedback"}},
    "tied-transformer": {"rule": "robust", "codec": {"name": "top-k", "fraction": 0.25}},
}

ON_FLOWER = [
    pytest.param(kind, marks=pytest.mark.slow if kind == "lora" else pytest.mark.zoo)
    for kind in ON_ENGINES
]


def experiment(kind: str, rounds: int = 3) -> Experiment:
    return Experiment.parse(
        {
            "rounds": rounds,
            "seed": 3,
            "task": {"name": "tests.contracts.models:kind_task", "kind": kind},
            "clients": {"count": 4, "batch-size": 8, "lr": 0.2},
            "strategy": ON_ENGINES[kind],
        }
    )


def final_model(kind: str, engine: str, out: Path) -> bytes:
    run_experiment(experiment(kind), out, engine=engine, report=False)
    run = Run.load(out)
    assert [line["kept"] for line in run.rounds[1:]] == [4, 4, 4]
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ON_ENGINES)
def test_inline_resumes(kind: str, tmp_path: Path) -> None:
    whole = final_model(kind, "inline", tmp_path / "whole")
    run_experiment(experiment(kind, 2), tmp_path / "parts", engine="inline", report=False)
    run_experiment(experiment(kind), tmp_path / "parts", engine="inline", resume=True)
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == whole


@pytest.mark.usefixtures("one_ray")
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("kind", ON_ENGINES)
def test_ray(kind: str, tmp_path: Path) -> None:
    inline = final_model(kind, "inline", tmp_path / "inline")
    assert final_model(kind, "ray", tmp_path / "ray") == inline


@pytest.mark.parametrize("kind", ON_FLOWER)
def test_flower(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(APP_ROOT)  # the task's module is found from there
    inline = final_model(kind, "inline", tmp_path / "inline")
    assert final_model(kind, "flower", tmp_path / "flower") == inline
