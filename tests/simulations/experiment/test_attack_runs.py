"""Tests of whole runs under attack: resumed, with members and codecs, on tasks without classes."""

import json

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment

POISONED = {"name": "poisoned-fl", "every": 2}
LASTING = {
    "poisoned-fl": POISONED,
    "constant-direction": {"name": "constant-direction"},
    "evasive": {"name": "evasive", "attack": POISONED, "noise": 0.2, "tries": 4},
}


@pytest.fixture
def run(tmp_path, tiny):
    """Return a function that runs an experiment with faults and returns the model's bytes."""

    def run(directory, faults, rounds=4, resume=False, **tables):
        table = tiny.to_table() | {"faults": faults, "rounds": rounds} | tables
        out = tmp_path / directory
        run_experiment(Experiment.parse(table), out, report=False, resume=resume)
        return (out / "model.safetensors").read_bytes()

    return run


@pytest.mark.parametrize("name", LASTING)
def test_a_resumed_attack_goes_on_bit_by_bit(run, name):
    faults = [{**LASTING[name], "clients": [0], "start": 2}]
    whole = run("whole", faults, rounds=5)
    run("parts", faults, rounds=3)
    assert run("parts", faults, rounds=5, resume=True) == whole
    assert run("other", [], rounds=5) != whole


@pytest.mark.parametrize("name", [*LASTING, "copycat", "sideways"])
def test_members_are_attacked_separately_and_packed_updates_packed_again(run, tmp_path, name):
    fault = {**LASTING.get(name, {"name": name, "noise": 0.3}), "clients": [1]}
    run(
        "members",
        [fault],
        rounds=2,
        clients={"count": 3, "members": 2},
        strategy={"rule": "median", "codec": {"name": "quantized", "bits": 8}},
    )
    lines = (tmp_path / "members" / "clients.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["round"] > 0]
    assert all(row["kept"] for row in rows)
    assert {row["fault"] for row in rows} == {name, None}


@pytest.mark.parametrize("name", ["lasa", "fldetector"])
def test_attackers_run_rules_that_need_layers_or_the_model(run, name):
    evasive = {"name": "evasive", "clients": [1], "noise": 0.2, "tries": 4}
    assert run("evasive", [evasive], rounds=3, strategy={"rule": name})


def test_attackers_cannot_run_a_rule_that_judges_by_data_of_the_servers(run):
    fault = {"name": "evasive", "count": 1}
    with pytest.raises(ConfigError, match="attack 'evasive' is made for a rule that judges by"):
        run("refused", [fault], strategy={"rule": "fltrust", "root-examples": 20})
