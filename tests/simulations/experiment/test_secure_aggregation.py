"""Experiments with secure aggregation: what is refused, and a run with all that can go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

SECURE: dict[str, Any] = {"bucket": 3, "threshold": 3}


def table(**changes: Any) -> dict[str, Any]:
    strategy = {"rule": "mean", "secure-aggregation": SECURE, **changes.pop("strategy", {})}
    return {"rounds": 2, "clients": {"count": 9}, "strategy": strategy, **changes}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"edges": {"groups": 3}}, "edges.groups: edges take no masks off"),
        ({"metrics": {"honest-mean": True}}, "metrics.honest-mean, which reads single updates"),
        ({"faults": [{"name": "ipm", "count": 1}]}, "colluding attacks, which compute with"),
        ({"clients": {"count": 2}}, "needs at least 3 clients in a round, found 2"),
        (
            {"strategy": {"rule": {"name": "trimmed-mean", "f": 2}}},
            r"needs at least 5 updates, found 3 \(buckets of 3, 9 clients\)",
        ),
        (
            {"strategy": {"secure-aggregation": {"bucket": 3, "threshold": 2}}},
            "strategy.secure-aggregation.threshold needs to be in 3..3",
        ),
        (
            {"strategy": {"secure-aggregation": {"buckets": 3}}},
            "'buckets' does not belong to .*: did you mean 'bucket'",
        ),
        ({"strategy": {"codec": {"name": "quantized", "bits": 8}}}, "packed updates cannot be"),
        ({"strategy": {"rule": "robust"}}, "remembers no clients"),
        ({"strategy": {"selector": "oort"}}, "knows nothing of the clients' updates"),
        ({"clients": {"count": 9, "control-variates": True}}, "control variates would reach"),
    ],
)
def test_what_is_refused_before_anything_starts(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Experiment.parse(table(**changes))


def test_drop_outs_virtual_time_ensembles_and_a_downlink(tmp_path: Path) -> None:
    experiment = Experiment.parse(
        table(
            rounds=4,
            clients={
                "count": 12,
                "members": 2,
                "drop-out": 0.15,
                "speed": {"name": "log-uniform", "seconds-per-example": 0.03},
                "bandwidth": {"name": "log-uniform", "up": 0.1, "latency": 0.05},
            },
            strategy={
                "rule": "median",
                "downlink": {"name": "quantized", "bits": 8},
                "deadline": 15.0,
                "secure-aggregation": {"bucket": 4, "threshold": 3},
            },
            faults=[{"name": "sign-flip", "count": 1}, {"name": "nan", "count": 1}],
        )
    )
    run_experiment(experiment, tmp_path / "run", engine="inline", report=False)
    run = Run.load(tmp_path / "run")
    rounds = run.rounds[1:]
    assert all(line["virtual-time"] > 0 for line in rounds)
    assert {client["bucket"] for client in run.clients} == {0, 1, 2}
    reasons = {client["reason"] for client in run.clients}
    assert "failed: dropped out (simulated)" in reasons
    assert any("not finite" in (reason or "") for reason in reasons)
    assert sum(line["diagnostics"]["void-buckets"] for line in rounds) < 12
    assert rounds[-1]["server"]["loss"] < run.rounds[0]["server"]["loss"]


@pytest.mark.parametrize("name", ["tied", "frozen_backbone"])
def test_the_roles_of_entries(name: str, tmp_path: Path) -> None:
    """Models as they come: up to rounding, what is trained without masks."""
    task = {"task": {"name": f"tests.simulations.odd_tasks:{name}"}}
    models = []
    for out, secure in (("secure", {**SECURE, "bits": 24}), ("plain", {})):
        experiment = Experiment.parse(table(**task, strategy={"secure-aggregation": secure}))
        run_experiment(experiment, tmp_path / out, engine="inline", report=False)
        models.append(load_file(tmp_path / out / "model.safetensors"))
    secure_model, plain = models
    assert secure_model.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(secure_model[key], value, atol=1e-4, rtol=0, msg=key)
    lines = Run.load(tmp_path / "secure").rounds
    first, second = (line["bytes-down-by-role"]["frozen"] for line in lines[1:])
    assert second == 0 or second <= first / 20  # what the nodes hold is not sent again
