"""The table [privacy]: what it builds, and one line for each way in which it cannot protect."""

from __future__ import annotations

from typing import Any

import pytest

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.privacy import AdaptiveClipping, CentralDP, SecureGaussian, SeededGaussian
from hqde_fl.simulations.experiment.checks import check_secure_noise
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.warnings import warnings_of

BASE: dict[str, dict[str, Any]] = {
    "task": {"name": "digits", "hidden": 8},
    "clients": {"count": 20},
    "strategy": {"rule": "mean", "selector": "poisson", "fraction-train": 0.5},
    "privacy": {"noise-multiplier": 1.0, "delta": 1e-3, "accountant": "rdp"},
}


def experiment(changes: dict[str, dict[str, Any]] | None = None) -> Experiment:
    tables = {name: {**table} for name, table in BASE.items()}
    for name, table in (changes or {}).items():
        tables.setdefault(name, {}).update(table)
    return Experiment.parse({"rounds": 3, **tables})


def test_without_the_table_there_is_none() -> None:
    assert Experiment().parts.aggregation.privacy is None
    assert Experiment().parts.plan is None


def test_the_table_builds_the_settings() -> None:
    table = {
        "max-epsilon": 4.0,
        "clipping-norm": 0.5,
        "adaptive-clipping": {"quantile": 0.3},
        "noise": "seeded-gaussian",
    }
    assert experiment({"privacy": table}).parts.aggregation.privacy == CentralDP(
        noise_multiplier=1.0,
        max_epsilon=4.0,
        delta=1e-3,
        clipping_norm=0.5,
        adaptive=AdaptiveClipping(0.3),
        accountant="rdp",
        noise=SeededGaussian(),
    )


def test_the_noise_is_secure_unless_a_seed_is_asked_for() -> None:
    privacy = experiment().parts.aggregation.privacy
    assert privacy is not None
    assert privacy.noise == SecureGaussian()


def test_noise_from_a_seed_is_refused_on_real_nodes() -> None:
    check_secure_noise(experiment().parts)
    check_secure_noise(Experiment().parts)
    with pytest.raises(ConfigError, match=r"privacy\.noise needs to be 'secure-gaussian'"):
        check_secure_noise(experiment({"privacy": {"noise": "seeded-gaussian"}}).parts)


def test_an_experiment_survives_json() -> None:
    privacy = {"noise": "seeded-gaussian", "adaptive-clipping": {"quantile": 0.3}}
    given = experiment({"privacy": privacy})
    assert Experiment.from_json(given.to_json()) == given


WRONG: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "rule": (
        {"strategy": {"rule": {"name": "krum", "f": 1}}},
        r"strategy\.rule needs to be one of bounded sensitivity .* found Krum\(f=1\)",
    ),
    "weighted mean": (
        {"strategy": {"rule": {"name": "mean", "weighted": True}}},
        r"strategy\.rule .* weighted = true .* set rule = 'mean'",
    ),
    "bucketing under poisson": (
        {"strategy": {"rule": {"name": "chain", "rules": ["bucketing", "mean"]}}},
        r"strategy\.rule .* use selector 'uniform'",
    ),
    "selector": (
        {"strategy": {"selector": "round-robin"}},
        r"strategy\.selector needs to be 'poisson' or 'uniform' .* found RoundRobin",
    ),
    "accountant of the selector": (
        {"strategy": {"selector": "uniform"}, "privacy": {"accountant": "pld"}},
        "accountant 'pld' needs .* found 10 of 20 clients",
    ),
    "accountant": (
        {"privacy": {"accountant": "moments"}},
        r"privacy\.accountant needs to be 'pld' or 'rdp', found 'moments'",
    ),
    "two ways": (
        {"privacy": {"target-epsilon": 8.0}},
        "noise-multiplier = 1 and target-epsilon = 8",
    ),
    "no way": (
        {"privacy": {"noise-multiplier": 0.0}},
        r"privacy\.delta needs privacy\.noise-multiplier > 0 or",
    ),
    "two limits": (
        {"privacy": {"noise-multiplier": 0.0, "target-epsilon": 8.0, "max-epsilon": 4.0}},
        r"privacy\.max-epsilon goes with privacy\.noise-multiplier",
    ),
    "negative noise": (
        {"privacy": {"noise-multiplier": -1.0}},
        r"privacy\.noise-multiplier needs to be finite and >= 0, found -1",
    ),
    "negative norm": (
        {"privacy": {"clipping-norm": -1.0}},
        r"privacy\.clipping-norm needs to be finite and > 0, found -1",
    ),
    "delta": ({"privacy": {"delta": 1.0}}, r"privacy\.delta needs to be in \(0, 1\), found 1"),
    "quantile": (
        {"privacy": {"adaptive-clipping": {"quantile": 2.0}}},
        r"privacy\.adaptive-clipping\.quantile needs to be in \(0, 1\), found 2",
    ),
    "quorum": ({"strategy": {"quorum": 3}}, r"strategy\.quorum needs to be 0 .* found 3"),
    "evaluation": (
        {"strategy": {"fraction-evaluate": 0.5}},
        r"strategy\.fraction-evaluate needs to be 0 .* found 0\.5",
    ),
    "edges": ({"edges": {"groups": 2}}, r"needs edges\.groups = 0, .* found 2"),
    "honest mean": (
        {"metrics": {"honest-mean": True}},
        r"needs metrics\.honest-mean = false, .* found true",
    ),
    "density": ({"strategy": {"density": "always"}}, r"needs strategy\.density = 'free'"),
    "sampling": (
        {"strategy": {"fraction-train": 0.01}},
        r"strategy\.fraction-train = 20 x 0\.01",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_protect_is_one_line(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(ConfigError, match=message) as caught:
        experiment(changes)
    assert "\n" not in str(caught.value)


def test_a_misspelt_source_of_noise_is_corrected() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'seeded-gaussian'"):
        experiment({"privacy": {"noise": "seeded-gausian"}})


def test_a_large_delta_is_warned_of() -> None:
    assert warnings_of(experiment({"privacy": {"delta": 0.05}})) == [
        "delta = 0.05 is not below 1 / clients = 0.05: a mechanism that publishes one client's "
        "update may satisfy it"
    ]
    assert warnings_of(experiment()) == []


def test_too_little_noise_on_counts_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.adaptive-clipping\.count-noise needs to be"):
        experiment({"privacy": {"adaptive-clipping": {"count-noise": 0.1}}}).checked_task()


NORMED = """
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset
import torch
from hqde_fl import Task


def data(number=0, count=1):
    x = torch.randn(8, 4)
    return TensorDataset(x, x.sum(dim=1, keepdim=True))


def task(partitions=1, seed=0, partition=None):
    return Task(
        model=lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)),
        partition=data,
        test=data,
        loss=functional.mse_loss,
        metrics={},
        classifier=False,
    )
"""


def test_statistics_that_would_be_merged_are_refused_before_the_run(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "normed.py").write_text(NORMED)
    monkeypatch.chdir(tmp_path)
    changes = {"task": {"name": "normed.py:task"}}
    tables = {**BASE, **changes}
    with pytest.raises(ConfigError, match=r"strategy\.buffers needs to be 'local'.*running_mean"):
        Experiment.parse({"rounds": 1, **tables}).checked_task()
    local = {**tables, "strategy": {**BASE["strategy"], "buffers": "local"}}
    assert Experiment.parse({"rounds": 1, **local}).checked_task() is not None
