import json

import pytest
import torch

from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment

BASE = {
    "rounds": 2,
    "task": {"name": "digits", "hidden": 8},
    "clients": {"count": 5},
    "strategy": {"rule": "mean"},
    "engine": {"name": "inline"},
    "metrics": {"honest-mean": True},
}


def measured(path, **changes):
    run_experiment(Experiment.parse(BASE | changes), path, report=False)
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    return [line["honest-mean"] for line in lines]


def test_the_mean_rule_without_faults_has_distance_zero(tmp_path):
    start, *rounds = measured(tmp_path / "run")
    assert start == {"distance": None, "spread": None, "ratio": None}
    for line in rounds:
        assert line["spread"] > 1e-3
        assert line["distance"] < 1e-5 * line["spread"]


def test_an_attacker_moves_the_mean_further_than_the_median(tmp_path):
    """One of five sends -9 x instead of x, which moves the mean but hardly the median."""
    flip = [{"name": "sign-flip", "count": 1, "scale": 9.0}]
    moved_means = measured(tmp_path / "mean", faults=flip)[1:]
    medians = measured(tmp_path / "median", faults=flip, strategy={"rule": "median"})[1:]
    for mean, median in zip(moved_means, medians, strict=True):
        assert mean["ratio"] == pytest.approx((mean["distance"] / mean["spread"]) ** 2)
        assert mean["distance"] > 2 * median["distance"]


def test_colluding_attacks_and_packed_updates_are_measured_as_the_server_receives_them(tmp_path):
    attack = [{"name": "ipm", "count": 2}]
    codec = {"rule": "mean", "codec": {"name": "quantized", "bits": 8}}
    plain = measured(tmp_path / "plain", faults=attack)[1]
    packed = measured(tmp_path / "packed", faults=attack, strategy=codec)[1]
    assert packed["distance"] == pytest.approx(plain["distance"], rel=0.05)
    assert packed["distance"] != plain["distance"]


@pytest.mark.parametrize("bits", [8, 2])
def test_under_a_downlink_codec_the_step_is_that_of_the_servers_model(tmp_path, bits):
    downlink = {"name": "quantized", "bits": bits, "unbiased": False}
    lines = measured(tmp_path / "run", rounds=3, strategy={"rule": "mean", "downlink": downlink})
    for line in lines[1:]:
        assert line["spread"] > 1e-3
        assert line["distance"] < 1e-5 * line["spread"]


def test_measuring_does_not_change_the_run(tmp_path):
    measured(tmp_path / "with")
    run_experiment(Experiment.parse({**BASE, "metrics": {}}), tmp_path / "without", report=False)
    from safetensors.torch import load_file

    models = [load_file(tmp_path / name / "model.safetensors") for name in ("with", "without")]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert "honest-mean" not in (tmp_path / "without" / "rounds.jsonl").read_text()


def test_every_round_has_detection_counts(tmp_path):
    path = tmp_path / "run"
    faults = [{"name": "crash", "count": 1}]
    run_experiment(Experiment.parse({**BASE, "faults": faults}), path, report=False)
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    assert lines[0]["exclusion"]["precision"] is None
    assert lines[1]["exclusion"] == {
        "faulty": 1,
        "honest": 4,
        "sleeping": 0,
        "caught": 0,
        "false-alarms": 0,
        "judged-faulty": 0,
        "judged-honest": 0,
        "rejected-faulty": 0,
        "rejected-honest": 0,
        "failed-faulty": 1,
        "failed-honest": 0,
        "late-faulty": 0,
        "late-honest": 0,
        "skipped-faulty": 0,
        "skipped-honest": 0,
        "missing-faulty": 0,
        "missing-honest": 0,
        "precision": None,
        "recall": None,
    }
