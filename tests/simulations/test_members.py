"""Ensembles in whole experiments."""

import pytest
import torch
from safetensors.torch import load_file

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import select_member
from hqde_fl.selection import Ensemble
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

ASSIGNED = {
    "members": 3,
    "assignment": "round-robin",
    "members-per-client": 2,
    "count": 6,
    "lr": 0.1,
    "bagging": True,
}
FEEDBACK = {"name": "error-feedback", "inner": {"name": "quantized", "bits": 8, "unbiased": False}}


@pytest.fixture
def assigned(tiny):
    """Return the small experiment with three members, two of them for each client."""
    return {**tiny.to_table(), "clients": ASSIGNED, "faults": []}


def test_the_clients_section_configures_the_assignment(assigned):
    experiment = Experiment.parse(assigned)
    assert experiment.parts.ensemble == Ensemble(3, "round-robin", 2)
    assert Experiment.from_json(experiment.to_json()) == experiment
    assert Experiment.parse({}).parts.ensemble == Ensemble()


def test_members_differ_and_every_client_trains_its_own(assigned, tmp_path):
    experiment = Experiment.parse(assigned, ["rounds=3", "clients.lr=0.5"])
    run_experiment(experiment, tmp_path / "run")
    run = Run.load(tmp_path / "run")
    state = load_file(tmp_path / "run" / "model.safetensors")
    one, two, three = (select_member(member, state) for member in range(3))
    assert not any(torch.equal(one[name], other[name]) for name in one for other in (two, three))
    for line in run.clients:
        share = experiment.parts.ensemble.assigned_members(
            line["partition"], line["round"], experiment.parts.seeds
        )
        assert tuple(line["members"]) == share
        assert line["kept"]
    assert run.rounds[-1]["server"]["accuracy"] > run.rounds[0]["server"]["accuracy"] + 0.1


def test_independent_members_are_models_of_runs_of_their_own(assigned, tmp_path):
    """An ensemble of M is M ordinary runs: its first member is the model of a run with M = 1."""
    states = []
    for members in (1, 3):
        clients = {"count": 4, "lr": 0.1, "members": members}
        run_experiment(Experiment.parse({**assigned, "clients": clients}), tmp_path / str(members))
        states.append(load_file(tmp_path / str(members) / "model.safetensors"))
    one, three = states
    first = select_member(0, three)
    assert one.keys() == first.keys()
    assert all(torch.equal(one[name], first[name]) for name in one)


def test_fedavg_mode_ends_with_one_model(assigned, tmp_path):
    run_experiment(Experiment.parse(assigned, ["clients.mode=fedavg"]), tmp_path / "run")
    state = load_file(tmp_path / "run" / "model.safetensors")
    one, two, three = (select_member(member, state) for member in range(3))
    assert all(torch.equal(one[n], two[n]) and torch.equal(one[n], three[n]) for n in one)


@pytest.mark.parametrize(
    "fault",
    [
        {"name": "sign-flip", "count": 1},
        {"name": "nan", "count": 1},
        {"name": "partial", "count": 1},
        {"name": "stale", "count": 1, "rounds": 1},
        {"name": "crash", "count": 1},
        {"name": "garbage", "count": 1},
        {"name": "alie", "count": 1, "z": 1.5},
        {"name": "mimic", "count": 2},
        {"name": "optimal-ipm", "count": 1},
    ],
    ids=lambda fault: fault["name"],
)
def test_faults_and_attacks_with_packed_members(assigned, tmp_path, fault):
    document = {
        **assigned,
        "clients": {**ASSIGNED, "count": 9},
        "faults": [fault],
        "strategy": {"rule": "byzantine-filter", "codec": FEEDBACK},
    }
    rounds = []
    result = run_experiment(Experiment.parse(document), tmp_path / "run", on_round=rounds.append)
    run = Run.load(result.path)
    gone = {"nan", "partial", "crash", "garbage"}
    for line in run.clients:
        if line["fault"] is None:
            assert not (line["reason"] or "").startswith(("rejected", "failed", "late"))
        elif fault["name"] in gone:
            assert line["reason"].startswith(("rejected", "failed"))
    assert all(line["note"] is None for line in rounds)
    assert result.final["accuracy"] > rounds[0]["server"]["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alie", "optimal-alie"])
def test_attackers_act_on_each_member_by_itself(assigned, tmp_path, name):
    """All attackers of a member send the same update, and another one than without the attack."""
    document = {
        **assigned,
        "rounds": 1,
        "clients": {**ASSIGNED, "count": 9, "bagging": False},
        "strategy": {"rule": "mean"},
    }
    states = []
    for place, count in enumerate((0, 3)):
        table = {**document, "faults": [{"name": name, "count": count}]}
        out = tmp_path / str(place)
        run_experiment(Experiment.parse(table), out)
        states.append(load_file(out / "model.safetensors"))
    for member in range(3):
        clean, attacked = (select_member(member, state) for state in states)
        assert not any(torch.equal(clean[name], attacked[name]) for name in clean)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["clients.members-per-client=4"],
            r"clients\.members-per-client needs to be in \[0, members = 3\], found 4",
        ),
        (
            ["clients.assignment=all"],
            r"clients\.members-per-client needs to be members = 3 \(or 0\) with",
        ),
        (["clients.assignment=some"], r"clients\.assignment"),
        (
            ["clients.members-per-client=1", "strategy.rule={name='krum', f=1}"],
            r"Krum\(f=1\) needs at least 5 updates of each member, found 2 \(6 clients, "
            r"clients.members-per-client = 1 of clients.members = 3\)",
        ),
        (
            ["strategy.quorum=5"],
            r"strategy.quorum = 5 needs as many clients of each member, found 4 \(6 clients, ",
        ),
        (
            ["strategy.rule={name='trimmed-mean', f=1}", "strategy.fraction-train=0.5"],
            r"TrimmedMean\(f=1\) needs at least 3 updates of each member, found 2 \(3 \(6 clie",
        ),
    ],
)
def test_impossible_combinations_name_the_bound(assigned, overrides, message):
    with pytest.raises(ConfigError, match=message):
        Experiment.parse(assigned, overrides)
