"""A run whose updates are aggregated in Ray tasks is the run of the serial executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from hqde_fl.distributed import stored_updates
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

pytestmark = [pytest.mark.usefixtures("one_ray"), pytest.mark.xdist_group("ray")]

CLIENTS, ROUNDS = 9, 2
NNM = {"name": "nnm", "f": 2}
RULES: dict[str, dict[str, Any]] = {
    "multi-krum": {"name": "multi-krum", "f": 2},
    "nnm, trimmed mean": {"name": "chain", "rules": [NNM, {"name": "trimmed-mean", "f": 2}]},
    "tree": {"name": "tree", "leaf": "median", "root": "median", "fanout": 3},
}


def recorded(rule: dict[str, Any], executor: str, engine: str, out: Path) -> Run:
    experiment = Experiment.parse(
        {
            "rounds": ROUNDS,
            "seed": 5,
            "clients": {"count": CLIENTS, "lr": 0.2},
            "strategy": {"rule": rule, "executor": {"name": executor}},
            "faults": [{"name": "sign-flip", "count": 2}],
        }
    )
    run_experiment(experiment, out, engine=engine, report=False)
    return Run.load(out)


@pytest.mark.zoo
@pytest.mark.parametrize("rule", RULES)
def test_map_reduce_on_ray_is_serial_in_this_process(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    store = stored_updates.UpdateCollector.store

    def noted(self: Any, client: int, update: Any) -> Any:
        stored.append(client)
        return store(self, client, update)

    monkeypatch.setattr(stored_updates.UpdateCollector, "store", noted)
    here = recorded(RULES[rule], "serial", "inline", tmp_path / "inline")
    assert not stored
    there = recorded(RULES[rule], "map-reduce", "ray", tmp_path / "ray")
    assert sorted(stored) == sorted([*range(CLIENTS)] * ROUNDS)  # as they arrive
    model = load_file(tmp_path / "inline" / "model.safetensors")
    for name, value in load_file(tmp_path / "ray" / "model.safetensors").items():
        assert value == pytest.approx(model[name], rel=1e-6, abs=1e-6)
    assert len(there.clients) == len(here.clients) == CLIENTS * ROUNDS
    for mine, theirs in zip(here.clients, there.clients, strict=True):
        assert theirs["partition"] == mine["partition"]
        assert theirs["reason"] == mine["reason"]
        assert theirs["influence"] == pytest.approx(mine["influence"], abs=1e-9)
