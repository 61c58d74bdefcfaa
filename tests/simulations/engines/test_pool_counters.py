"""What a pool does is in its counters: of clients' calls, shards and nodes of a tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hqde_fl.monitor.task_counters import TaskCount, TaskCounters
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.report import render
from hqde_fl.simulations.report.pool_view import pool_view
from hqde_fl.simulations.run import run_experiment

pytestmark = [pytest.mark.usefixtures("one_ray"), pytest.mark.xdist_group("ray")]


def test_tasks_are_added_up_by_kind_and_host_until_they_are_taken() -> None:
    counters = TaskCounters()
    counters.add(TaskCount("train", "b", 1, 0.5, 10))
    counters.add(TaskCount("train", "a", 1, 1.0, 1))
    counters.add(TaskCount("train", "b", 2, 0.25, 5, reruns=3))
    counters.add(TaskCount("evaluate", "b", 1))
    assert counters.take() == [
        TaskCount("evaluate", "b", 1),
        TaskCount("train", "a", 1, 1.0, 1),
        TaskCount("train", "b", 3, 0.75, 15, 3),
    ]
    assert counters.take() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        ({"name": "krum", "f": 1}, {"train": 8, "reduce": 1, "combine": 1}),
        ({"name": "tree", "leaf": "median", "root": "median"}, {"train": 8, "tree node": 3}),
    ],
    ids=["krum", "tree"],
)
def test_a_run_on_ray_counts_clients_and_aggregation(
    tmp_path: Path, rule: dict[str, Any], kinds: dict[str, int]
) -> None:
    experiment = Experiment.parse(
        {
            "name": "line",
            "seed": 3,
            "rounds": 2,
            "task": {"name": "tests.simulations.line_task:regression"},
            "clients": {"count": 8, "lr": 0.05},
            "strategy": {"rule": rule, "executor": "map-reduce", "fraction-evaluate": 0.0},
            "engine": {"name": "ray"},
            "monitor": {"enabled": False},
        }
    )
    run_experiment(experiment, tmp_path / "ray", report=False)
    lines = [
        json.loads(text) for text in (tmp_path / "ray" / "pool.jsonl").read_text().splitlines()
    ]
    for number in (1, 2):
        counted = {line["kind"]: line for line in lines if line["round"] == number}
        assert {kind: line["tasks"] for kind, line in counted.items()} == kinds
        assert all(line["seconds"] > 0 and line["bytes"] > 0 for line in counted.values())
        assert {(line["host"], line["reruns"]) for line in counted.values()} == {(0, 0)}
    recorded = Run.load(tmp_path / "ray")
    view = pool_view(recorded)
    assert view is not None
    assert view.kinds["train"]["tasks"] == 16
    assert "Worker pool" in render(Comparison.of(recorded))
    table = experiment.to_table()
    table["strategy"]["executor"] = {"name": "serial"}
    run_experiment(Experiment.parse(table), tmp_path / "inline", engine="inline", report=False)
    assert pool_view(Run.load(tmp_path / "inline")) is None
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("ray", "inline"))
    assert all(one[name].equal(other[name]) for name in other)
