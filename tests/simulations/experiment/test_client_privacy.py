"""The tables of clients' own differential privacy: what they do in a run, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("opacus")

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.privacy import SecureGaussian, SeededGaussian
from hqde_fl.privacy.local import LocalDP
from hqde_fl.simulations.experiment.checks import check_secure_noise
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment

SEEDED = "seeded-gaussian"
SMALL = {"count": 2, "batch-size": 300}


def experiment(clients: dict[str, Any], **keys: Any) -> Experiment:
    return Experiment.parse(
        {"rounds": 2, "engine": {"name": "inline"}, "clients": SMALL | clients} | keys
    )


def lines(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


class TestRuns:
    def test_local_dp(self, tmp_path: Path) -> None:
        table = {"epsilon": 20.0, "clipping-norm": 0.5, "noise": SEEDED}
        run_experiment(experiment({"local-dp": table}), tmp_path / "run", report=False)
        settings = LocalDP(20.0, clipping_norm=0.5)
        by_round = {
            line["round"]: line["epsilon"] for line in lines(tmp_path / "run", "clients.jsonl")
        }
        assert by_round == {
            number: pytest.approx(settings.composed_epsilon(number)) for number in (1, 2)
        }
        manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
        facts = manifest["privacy-of-clients"]["local-dp"]
        assert facts["epsilon-at-most"] == pytest.approx(settings.composed_epsilon(2))
        assert facts["noise"] == "seeded"
        assert all(
            "epsilon" not in r["clients-train"] for r in lines(tmp_path / "run", "rounds.jsonl")
        )

    def test_dp_sgd_keeps_to_its_target(self, tmp_path: Path) -> None:
        table = {"target-epsilon": 4.0, "noise": SEEDED}
        run_experiment(experiment({"dp-sgd": table, "members": 2}), tmp_path / "run", report=False)
        last = [c["epsilon"] for c in lines(tmp_path / "run", "clients.jsonl") if c["round"] == 2]
        assert last == [pytest.approx(4.0, rel=0.01)] * 2
        assert max(last) <= 4.0

    @pytest.mark.parametrize(
        "table",
        [{"local-dp": {"epsilon": 20.0}}, {"dp-sgd": {"noise-multiplier": 1.0}}],
        ids=["local", "dp-sgd"],
    )
    def test_seeded_noise_repeats_and_the_default_does_not(
        self, tmp_path: Path, table: dict[str, dict[str, Any]]
    ) -> None:
        ((key, values),) = table.items()

        def model(name: str, **more: Any) -> bytes:
            own = experiment({key: values | more}, rounds=1)
            run_experiment(own, tmp_path / name, report=False)
            return (tmp_path / name / "model.safetensors").read_bytes()

        assert model("one", noise=SEEDED) == model("two", noise=SEEDED)
        assert model("three") != model("four")

    def test_a_node_that_would_spend_too_much_fails(self, tmp_path: Path) -> None:
        table = {"epsilon": 2.0, "max-epsilon": 2.5}
        run_experiment(experiment({"local-dp": table}), tmp_path / "run", report=False)
        first, second = lines(tmp_path / "run", "rounds.jsonl")[1:]
        assert (first["kept"], second["failed"]) == (2, 2)
        assert "max-epsilon is 2.5" in lines(tmp_path / "run", "clients.jsonl")[-1]["reason"]


def test_noise_is_secure_unless_a_seeded_source_is_named() -> None:
    for key, values in (("local-dp", {"epsilon": 1.0}), ("dp-sgd", {"noise-multiplier": 1.0})):
        for noise, expected in (({}, SecureGaussian), ({"noise": SEEDED}, SeededGaussian)):
            parts = experiment({key: values | noise}).parts.client_privacy
            settings = parts.local or parts.examples
            assert settings is not None
            assert type(settings.noise) is expected


@pytest.mark.parametrize(
    ("clients", "strategy", "message"),
    [
        ({"local-dp": {"epsilon": 1.0}}, {"fraction-evaluate": 0.5}, "fraction-evaluate = 0"),
        ({"dp-sgd": {"target-epsilon": 1.0}}, {"fraction-evaluate": 1.0}, "fraction-evaluate = 0"),
        (
            {"dp-sgd": {"noise-multiplier": 1.0}},
            {"rule": {"name": "superposition", "confidence": "reported"}},
            "clients report no loss",
        ),
        ({"dp-sgd": {"noise-multiplier": 1.0}, "bagging": True}, {}, "clients.bagging = false"),
        ({"local-dp": {"epsilon": 1.0}, "speed": "log-uniform"}, {}, "no virtual time"),
        ({"local-dp": {"delta": 1e-6}}, {}, "needs epsilon"),
        ({"local-dp": {"epsilon": 1.0, "noise": "secure"}}, {}, "did you mean 'secure-gaussian'"),
        ({"local-dp": {"epsilon": 1.0, "noise": 3}}, {}, "clients.local-dp.noise needs a name"),
        ({"dp-sgd": {"noise-multplier": 1.0}}, {}, "did you mean 'noise-multiplier'"),
        ({"dp-sgd": {"noise-multiplier": "much"}}, {}, "clients.dp-sgd: .* found 'much'"),
        ({"dp-sgd": {"max-grad-norm": 1.0}}, {}, "either noise_multiplier > 0 or target_epsilon"),
    ],
    ids=[
        "local, evaluation", "dp-sgd, evaluation", "reported confidence", "bagging", "virtual time",
        "no epsilon", "noise", "noise of another type", "key", "type", "no noise",
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_one_line(
    clients: dict[str, Any], strategy: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        experiment(clients, strategy=strategy)
    assert "\n" not in str(caught.value)


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def normalised_task() -> Task:
    data = TensorDataset(torch.randn(12, 4), torch.arange(12) % 3)
    return Task(model=normalised, partition=lambda number, count: data, test=lambda: data)


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        (
            {"local-dp": {"epsilon": 1.0}},
            "needs strategy.buffers = 'local'.* found '1.running_mean'",
        ),
        (
            {"dp-sgd": {"noise-multiplier": 1.0}},
            "without batch normalisation, found BatchNorm1d '1'",
        ),
    ],
    ids=["local", "dp-sgd"],
)
def test_a_model_that_would_tell_of_the_data_is_refused(
    clients: dict[str, Any], message: str
) -> None:
    own = Experiment(
        rounds=1, engine="inline", task=normalised_task(), clients={"count": 2} | clients
    )
    with pytest.raises(ConfigError, match=message):
        own.checked_task()
    if "local-dp" in clients:
        kept = Experiment(
            rounds=1,
            engine="inline",
            task=normalised_task(),
            clients={"count": 2} | clients,
            strategy={"buffers": "local"},
        )
        assert kept.checked_task() is not None


@pytest.mark.parametrize(
    ("key", "table"),
    [("local-dp", {"epsilon": 1.0}), ("dp-sgd", {"noise-multiplier": 1.0})],
    ids=["local", "dp-sgd"],
)
def test_noise_from_a_seed_is_refused_on_real_nodes(key: str, table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"clients\.{key}\.noise needs to be 'secure-gaussian'"):
        check_secure_noise(experiment({key: table | {"noise": SEEDED}}).parts)
    check_secure_noise(experiment({key: table}).parts)
