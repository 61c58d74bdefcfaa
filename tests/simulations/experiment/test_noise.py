"""The noises and the members' vote of an experiment."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.mods.entanglement_noise import EntanglementNoiseMod
from hqde_fl.errors import ConfigError
from hqde_fl.noise import ExplorationNoise, RegularizationNoise
from hqde_fl.prediction import EnsemblePredictor
from hqde_fl.protocol.records import to_record
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.server_app import evaluation
from hqde_fl.strategies.exploration import ExploringOptimizer
from hqde_fl.strategies.optimizers import SGD

BASE = {
    "rounds": 2,
    "task": {"name": "digits", "hidden": 8},
    "clients": {"count": 3, "lr": 0.1},
    "strategy": {"rule": "mean"},
    "engine": {"name": "inline"},
}


def experiment(clients=None, strategy=None, **more):
    document = {**BASE, **more}
    document["clients"] = BASE["clients"] | (clients or {})
    document["strategy"] = BASE["strategy"] | (strategy or {})
    return Experiment.parse(document)


def test_the_tables_become_parts():
    parsed = experiment(
        {"regularization-noise": {"scale": 0.1}, "entanglement-noise": {"scale": 0.2}},
        {"exploration-noise": {"scale": 0.3, "schedule": "cosine", "rounds": 5}},
        seed=4,
    )
    noise = ExplorationNoise(0.3, "cosine", rounds=5)
    assert parsed.parts.aggregation.server_optimizer == ExploringOptimizer(noise, SGD(), 4)
    assert parsed.parts.training.regularization_noise == RegularizationNoise(0.1)
    (mod,) = parsed.parts.client_mods()
    assert isinstance(mod, EntanglementNoiseMod)
    assert (mod.noise.scale, mod.seed) == (0.2, 4)
    assert Experiment.from_json(parsed.to_json()) == parsed


def test_no_table_is_no_noise():
    parsed = experiment()
    assert parsed.parts.aggregation.server_optimizer == SGD()
    assert parsed.parts.training.regularization_noise is None
    assert parsed.parts.client_mods() == []
    assert parsed.parts.predictor == EnsemblePredictor()


@pytest.mark.parametrize(
    ("clients", "strategy", "message"),
    [
        ({"entanglement-noise": {"scal": 1}}, {}, "'scal' does not belong.*'scale'"),
        ({"regularization-noise": {"scale": -1}}, {}, "scale >= 0, found -1"),
        ({}, {"exploration-noise": {"scale": 1, "schedule": "never"}}, "schedule"),
        ({"entanglement-noise": {"scale": 1}}, {"fraction-train": 0.5}, "fraction-train = 1"),
        (
            {"entanglement-noise": {"scale": 1}, "members": 2, "assignment": "round-robin"},
            {},
            "assignment = 'all', found 'round-robin'",
        ),
        ({"vote": "sof-vote"}, {}, "unknown vote 'sof-vote'.*'soft-vote'"),
        ({"vote": {"name": "superposition", "temperature": 0}}, {}, "temperature > 0"),
        ({"optimizer": "adma"}, {}, "unknown optimizer 'adma'"),
    ],
)
def test_impossible_noises_and_votes_are_refused(clients, strategy, message):
    with pytest.raises(ConfigError, match=message):
        experiment(clients, strategy)


def final(parsed, path):
    run_experiment(parsed, path)
    return torch.cat(
        [tensor.flatten() for tensor in load_file(path / "model.safetensors").values()]
    )


@pytest.mark.slow
def test_entanglement_noise_cancels_in_a_run_and_the_others_do_not(tmp_path):
    plain = final(experiment(rounds=1), tmp_path / "plain")
    entangled = experiment({"entanglement-noise": {"scale": 0.05}}, rounds=1)
    assert torch.allclose(final(entangled, tmp_path / "entangled"), plain, atol=1e-6)
    for name, parsed in {
        "exploring": experiment(strategy={"exploration-noise": {"scale": 0.1}}, rounds=1),
        "regularised": experiment({"regularization-noise": {"scale": 0.1}}, rounds=1),
        "median": experiment({"entanglement-noise": {"scale": 0.05}}, {"rule": "median"}, rounds=1),
    }.items():
        noisy = final(parsed, tmp_path / name)
        assert float((noisy - plain).abs().max()) > 1e-4
        assert torch.isfinite(noisy).all()


@pytest.mark.slow
def test_an_ensemble_and_its_members_are_evaluated_on_the_server_and_on_clients(tmp_path):
    parsed = experiment(
        {"members": 3, "vote": "entanglement"}, {"fraction-evaluate": 1.0}, rounds=1
    )
    run_experiment(parsed, tmp_path / "run")
    line = Run.load(tmp_path / "run").rounds[-1]
    names = {"accuracy", "nll", "ece"}
    names |= {f"member-{name}" for name in names} | {"diversity", "disagreement", "loss"}
    assert line["server"].keys() == names
    assert {f"eval-{name}" for name in names} <= line["clients-evaluate"].keys()
    assert line["server"]["nll"] < line["server"]["member-nll"]
    assert line["server"]["nll"] == pytest.approx(line["server"]["loss"], rel=1e-4)
    assert line["server"]["disagreement"] > 0


def test_the_vote_decides_how_members_predict():
    task = experiment().load_task()
    arrays = to_record(initial_state(task, 3, experiment().parts.seeds))
    losses = {
        name: evaluation(task, 3, None, EnsemblePredictor(name))(1, arrays)["loss"]
        for name in ("soft-vote", "superposition", "entanglement", "voting", "adaptive")
    }
    assert len({round(loss, 9) for loss in losses.values()}) >= 4
    assert losses["soft-vote"] == evaluation(task, 3)(1, arrays)["loss"]
