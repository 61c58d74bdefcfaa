"""Runs with one seed give the same result on ``inline`` and ``ray``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

EXPERIMENT: dict[str, Any] = {
    "rounds": 3,
    "seed": 11,
    "clients": {
        "count": 6,
        "lr": 0.2,
        "momentum": 0.5,
        "keep-optimizer": True,
        "steps": 3,
        "members": 3,
        "assignment": "random",
        "members-per-client": 2,
        "bagging": True,
        "partition": {"name": "dirichlet", "alpha": 0.5},
        "speed": {"name": "log-uniform", "seconds-per-example": 0.03, "jitter": 0.3},
        "bandwidth": {"name": "log-uniform", "up": 0.1, "latency": 0.05},
        "drop-out": 0.2,
    },
    "strategy": {
        "rule": {"name": "byzantine-filter"},
        "fraction-train": 0.8,
        "deadline": 20.0,
    },
    "faults": [{"name": "gaussian", "count": 1}, {"name": "crash", "count": 1}],
}


pytestmark = [pytest.mark.usefixtures("one_ray"), pytest.mark.xdist_group("ray")]


def test_inline_and_ray_agree_to_the_bit(
    tmp_path: Path, comparable: Callable[[Path], object]
) -> None:
    inline, on_ray = tmp_path / "inline", tmp_path / "ray"
    for out in (inline, on_ray):
        run_experiment(Experiment.parse(EXPERIMENT), out, engine=out.name)
    model = (inline / "model.safetensors").read_bytes()
    assert model == (on_ray / "model.safetensors").read_bytes()
    for lines in ("rounds.jsonl", "clients.jsonl"):
        assert comparable(inline / lines) == comparable(on_ray / lines)
    run = Run.load(on_ray)
    assert run.manifest["ray"]["deaths"] == 0
    assert any(client["virtual-turnaround"] > 20 for client in run.clients)
    assert any(client["reason"] == "failed: dropped out (simulated)" for client in run.clients)
    assert run.rounds[-1]["virtual-time"] > 0


def test_secure_aggregation_gives_the_same_model_although_its_keys_differ(tmp_path: Path) -> None:
    secure = {"bucket": 4, "threshold": 3}
    table = {
        "rounds": 2,
        "seed": 3,
        "clients": {"count": 9, "drop-out": 0.1},
        "strategy": {"rule": "median", "secure-aggregation": secure},
    }
    for name in ("inline", "ray", "again"):
        engine = "inline" if name == "again" else name
        run_experiment(Experiment.parse(table), tmp_path / name, engine=engine, report=False)
    models = {(tmp_path / n / "model.safetensors").read_bytes() for n in ("inline", "ray", "again")}
    assert len(models) == 1


@contextmanager
def float64() -> Iterator[None]:
    """Let torch make float64 tensors by default, as a user's program may."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def test_torchs_settings_of_the_program_reach_the_workers(tmp_path: Path) -> None:
    strategy = EXPERIMENT["strategy"] | {"deadline": 600.0}
    experiment = Experiment.parse(EXPERIMENT | {"rounds": 1, "strategy": strategy})
    with float64():
        run_experiment(experiment, tmp_path / "inline", engine="inline", report=False)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            run_experiment(experiment, tmp_path / "ray", engine="ray", report=False)
    run_experiment(experiment, tmp_path / "float32", engine="ray", report=False)  # the same workers
    inline, ray, float32 = (
        (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("inline", "ray", "float32")
    )
    assert inline == ray
    assert len(float32) < 0.6 * len(ray)
