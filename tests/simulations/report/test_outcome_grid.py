import pytest

from hqde_fl.simulations.report.outcome_grid import outcome_grid
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord


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
