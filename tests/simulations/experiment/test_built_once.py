"""A run parses its experiment, loads its task and builds its rule once."""

from __future__ import annotations

import sys
import types
from collections import Counter
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from hqde_fl.registry import Registry
from hqde_fl.rules import RULES
from hqde_fl.simulations.console.command_line import app
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.sweep import Sweep, run_sweep
from hqde_fl.simulations.tasks import load_task

TABLE = {
    "rounds": 2,
    "task": {"name": "counted_task:load"},
    "clients": {"count": 4, "lr": 0.1},
    "strategy": {"rule": {"name": "byzantine-filter"}},
    "faults": [{"name": "sign-flip", "count": 1}],
    "engine": {"name": "inline"},
}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often experiments were parsed, rules built, and a user's own task loaded."""
    counts: Counter[str] = Counter()
    module = types.ModuleType("counted_task")

    def load(partitions, seed, partition):
        counts["tasks"] += 1
        return load_task({"name": "digits", "hidden": 8}, {"name": "iid"}, partitions, seed)

    validate, build = Experiment.model_validate.__func__, Registry.build  # type: ignore[attr-defined]

    def counted_validate(cls, document):
        counts["experiments"] += 1
        return validate(cls, document)

    def counted_build(self, table):
        counts["rules"] += self is RULES
        return build(self, table)

    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "counted_task", module)
    monkeypatch.setattr(Experiment, "model_validate", classmethod(counted_validate))
    monkeypatch.setattr(Registry, "build", counted_build)
    return counts


ONCE = {"experiments": 1, "tasks": 1, "rules": 1}


def test_a_run_by_the_command_builds_everything_once(counts: Counter[str], tmp_path: Path) -> None:
    file = tmp_path / "counted.toml"
    file.write_text(tomli_w.dumps(TABLE))
    arguments = ["run", file, "--engine", "inline", "--set", "rounds=3", "--out", tmp_path / "run"]
    ended = CliRunner().invoke(app, [*map(str, arguments)])
    assert ended.exit_code == 0, ended.output
    assert counts == ONCE


def test_a_run_on_another_engine_builds_everything_once(
    counts: Counter[str], tmp_path: Path
) -> None:
    experiment = Experiment.parse({**TABLE, "engine": {"name": "ray"}})
    run_experiment(experiment, tmp_path / "run", engine="inline")
    assert counts == ONCE


def test_more_rounds_build_nothing_more(counts: Counter[str], tmp_path: Path) -> None:
    run_experiment(Experiment.parse({**TABLE, "rounds": 5}), tmp_path / "run", report=False)
    assert counts == ONCE


def test_the_process_that_starts_ray_and_that_of_clients_build_once(
    counts: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients, which have processes of their own on Ray, run in this one here."""
    from hqde_fl.simulations import client_app
    from hqde_fl.simulations.engines.inline import InlineGrid
    from hqde_fl.simulations.engines.ray import grid as ray_grid
    from hqde_fl.simulations.engines.ray import pool
    from hqde_fl.simulations.engines.ray.dispatch import Counters

    configs = []

    def local_grid(app, partitions, run_config, seed, **_):
        assert app is client_app.app
        configs.append(run_config)
        grid = InlineGrid(app, partitions, run_config, seed)
        grid.dashboard, grid.counters = "", Counters()
        return grid

    client_app._cached_app.cache_clear()
    monkeypatch.setattr(pool, "prepare", lambda *_: None)
    monkeypatch.setattr(ray_grid, "RayGrid", local_grid)
    run_experiment(Experiment.parse(TABLE), tmp_path / "run", engine="ray", report=False)
    assert counts == {"experiments": 2, "tasks": 2, "rules": 2}
    assert Experiment.from_json(configs[0]["config"]) == Experiment.parse(
        {**TABLE, "engine": {"name": "ray"}}
    )


def test_a_sweep_builds_once_per_cell_and_checks_each_task_before(
    counts: Counter[str], tmp_path: Path
) -> None:
    file = tmp_path / "counted.toml"
    file.write_text(tomli_w.dumps({**TABLE, "sweep": {"seeds": [1, 2, 3]}}))
    run_sweep(Sweep.load(file), tmp_path / "out", report=False)
    assert counts == {"experiments": 3, "tasks": 1 + 3, "rules": 3}
