import pytest

from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.detection import Count
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.report.outcome_grid import outcome_grid
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord

TINY = {
    "rounds": 2,
    "task": {"name": "digits", "hidden": 8},
    "clients": {"count": 4},
    "engine": {"name": "inline"},
}


def test_the_grid_puts_faulty_clients_first_and_shows_influence(tmp_path, filtering, record):
    drawn = outcome_grid(record(tmp_path / "run", filtering), room=640)
    (faulty,) = filtering.faulty
    assert drawn.lines[0].label == str(faulty)
    assert drawn.lines[0].fault == "sign-flip"
    assert [line.fault for line in drawn.lines[1:]] == [None] * 3
    assert len(drawn.cells) == 8
    assert drawn.outcomes == ("kept", "filtered")
    assert drawn.lines[0].influence == pytest.approx(1 / 8)
    assert drawn.lines[1].influence == pytest.approx(1 / 4)


def test_clients_of_unknown_partition_are_drawn_by_node(tmp_path, tiny, record):
    client = ClientRecord(1, 77, None, False, 0.0, "failed: <b>", 1, 0, None)
    run = record(tmp_path / "run", tiny, [RoundRecord(round=1, asked=1, clients=(client,))])
    assert outcome_grid(run, room=640).lines[0].label == "77"


def test_the_influence_of_an_attacker_is_that_of_the_rounds_in_which_its_fault_acts(
    tmp_path, record
):
    late = Experiment.parse({**TINY, "faults": [{"name": "zero", "count": 1, "start": 2}]})
    run = record(tmp_path / "run", late)
    (attacker,) = late.faulty
    clients = [
        {**client, "influence": 0.9 if client["round"] == 1 else 0.1}
        if client["partition"] == attacker
        else client
        for client in run.clients
    ]
    drawn = outcome_grid(Run(run.path, run.manifest, run.rounds, tuple(clients)), room=640)
    assert drawn.sleeping
    assert drawn.lines[0].influence == pytest.approx(0.1)
    assert [cell.marked for cell in drawn.cells if "zero" in cell.title] == [False, True]
    assert [client["sleeping"] for client in run.clients].count(True) == 1
    assert run.detection.sleeping == 1
    assert run.detection.requested == Count(1, 6)
