"""Tests of runs whose attackers sleep, act on and off, or join late."""

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment


@pytest.fixture
def clients_of(tmp_path, tiny):
    """Return a function that runs a schedule and returns (round, client) -> its recorded line."""

    def run(fault, rounds):
        table = tiny.to_table() | {"faults": [fault], "rounds": rounds}
        run_experiment(Experiment.parse(table), tmp_path / "run")
        lines = Run.load(tmp_path / "run").clients
        return {(line["round"], line["partition"]): line for line in lines}

    return run


@pytest.mark.parametrize("name", ["sign-flip", "ipm"])
def test_late_joiners_take_no_part_until_they_start(clients_of, name):
    lines = clients_of({"name": name, "clients": [1], "start": 3, "absent": True}, 4)
    late = [lines[number, 1] for number in (1, 2, 3, 4)]
    absent = "failed: dropped out (simulated)"
    assert [line["reason"] for line in late] == [absent, absent, None, None]
    assert [line["kept"] for line in late] == [False, False, True, True]
    assert [line["fault"] for line in late] == [None, None, name, name]


@pytest.mark.parametrize("name", ["scaling", "alie"])
def test_on_off_faults_of_both_kinds_act_in_their_rounds(clients_of, name):
    fault = {"name": name, "clients": [0, 2], "start": 2, "period": 2, "on": 1}
    if name == "alie":
        fault["z"] = 1.5
    lines = clients_of(fault, 5)
    acting = {number for (number, _), line in lines.items() if line["fault"] == name}
    assert acting == {2, 4}
    assert all(line["kept"] for line in lines.values())


def test_an_impossible_schedule_is_refused_in_one_line():
    fault = {"name": "zero", "count": 1, "period": 3, "on": 4}
    with pytest.raises(ConfigError, match=r"FaultSchedule.on must be in \[1, 3\], found 4"):
        Experiment.parse({"clients": {"count": 4}, "faults": [fault]})
