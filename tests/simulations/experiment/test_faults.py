"""The ``[[faults]]`` of an experiment: their clients, their rounds, and what is refused."""

from __future__ import annotations

import json

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([{"name": "alei", "count": 2}], "unknown fault 'alei': did you mean 'alie'?"),
        (
            [{"name": "zero", "count": 1, "fraction": 0.1}],
            "faults.0 needs one of clients, count, fraction, found count and fraction",
        ),
        ([{"name": "zero"}], "faults.0 needs one of clients, count, fraction, found none"),
        ([{"name": "zero", "clients": [1, 1]}], r"different integers, found \[1, 1\]"),
        ([{"name": "zero", "clients": 1}], "faults.0.clients needs to be a list .* found 1"),
        ([{"name": "zero", "clients": [10]}], r"must be in \[0, 9\], found 10"),
        ([{"name": "zero", "clients": [1], "resample": True}], r"found clients \[1\]"),
        ([{"name": "zero", "fraction": 1.5}], r"fraction of a fault must be in \[0, 1\]"),
        ([{"name": "zero", "count": 1, "start": 0}], "start must be >= 1, found 0"),
        ([{"name": "zero", "count": 1, "strat": 2}], "parameter 'strat' does not belong to fault"),
        ([{"name": "zero", "cleints": [1]}], "'cleints' does not .*: did you mean 'clients'"),
        (
            [{"name": "ipm", "count": 1}, {"name": "mimic", "count": 1}],
            "one attack by colluding clients, found ipm and mimic",
        ),
        ([{"name": "kill", "count": 1}], "'kill' would end the server on engine 'inline'"),
    ],
)
def test_impossible_faults_are_refused_in_one_line(
    faults: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Experiment.parse({"faults": faults, "engine": {"name": "inline"}})


@pytest.mark.usefixtures("with_reports")
def test_clients_are_faulty_when_the_file_says_so(tmp_path, tiny):
    """A fault of single clients in some rounds, and colluding clients drawn in every round."""
    faults = [
        {"name": "nan", "count": 1, "start": 2, "stop": 2},
        {"name": "ipm", "fraction": 0.25, "resample": True, "epsilon": 5.0},
    ]
    table = tiny.to_table() | {"faults": faults, "rounds": 3}
    experiment = Experiment.parse(table)
    run_experiment(experiment, tmp_path / "run")
    run = Run.load(tmp_path / "run")
    told = [(line["round"], line["fault"]) for line in run.clients if line["fault"]]
    assert sorted(told) == [(1, "ipm"), (2, "ipm"), (2, "nan"), (3, "ipm")]
    (rejected,) = [line for line in run.clients if line["reason"]]
    assert (rejected["round"], rejected["fault"]) == (2, "nan")
    assert rejected["reason"] == "rejected: non-finite update"
    assert run.detection.faulty == 4
    assert (run.path / "report.html").exists()


def test_faulty_clients_can_be_named(tmp_path, tiny):
    faults = [{"name": "crash", "count": 1}, {"name": "nan", "clients": [2, 0]}]
    experiment = Experiment.parse(tiny.to_table() | {"faults": faults, "rounds": 1})
    assert {who for who, name in experiment.faulty.items() if name == "nan"} == {0, 2}
    run_experiment(experiment, tmp_path / "run")
    run = Run.load(tmp_path / "run")
    assert {line["partition"] for line in run.clients if line["fault"] == "nan"} == {0, 2}


def test_a_backdoor_is_measured_by_its_success(tmp_path, tiny):
    table = tiny.to_table() | {"faults": [{"name": "backdoor", "count": 1}], "rounds": 1}
    run_experiment(Experiment.parse(table), tmp_path / "run")
    for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines():
        assert 0 <= json.loads(line)["server"]["attack-success"] <= 1
