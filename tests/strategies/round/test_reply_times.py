"""Times of replies, by a virtual clock, by the Grid's measurement or by the server's own."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.protocol.records import to_record
from hqde_fl.protocol.wrapped_grid import WrappedGrid
from hqde_fl.strategies.round import reply_times
from hqde_fl.strategies.round.reply_times import ReplyTimes
from tests.strategies.federation import MODEL, Recorder, federation, run, strategy_with
from tests.strategies.timed import Timed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, as a list of one number, that tests may change."""
    now = [50.0]
    monkeypatch.setattr(reply_times.time, "monotonic", lambda: now[0])
    return now


class Plain(WrappedGrid):
    """A Grid that measures nothing."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        del self.call_seconds

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)


def test_a_grid_that_measures_nothing_leaves_the_times_of_arrival(clock: list[float]) -> None:
    times = ReplyTimes(Plain(federation(None)), 30.0)
    clock[0] += 5  # the round is prepared
    times.start()
    for node, seconds in ((7, 2.0), (8, 3.0)):
        clock[0] += seconds
        times.record_reply(node)
    clock[0] += 25
    times.record_end()
    clock[0] += 100  # the round is merged
    assert (times.seconds(7), times.seconds(8), times.seconds(9)) == (2.0, 5.0, None)
    assert (times.arrival(7), times.arrival(9)) == (2.0, None)
    assert times.round_seconds() == 30.0
    assert times.virtual is times.virtual_round is None


def test_a_grids_own_measurement_is_better_than_the_time_of_arrival(clock: list[float]) -> None:
    grid = Timed(federation(None), [0.5] * 10)
    times, node = ReplyTimes(grid, 30.0), grid.get_node_ids()[3]
    times.start()
    clock[0] += 4
    times.record_reply(node)
    assert times.seconds(node) == 0.5
    assert times.arrival(node) == 4.0
    times.record_reply(1234)  # a node that the Grid has not measured
    assert times.seconds(1234) == 4.0


def test_a_virtual_clock_is_the_only_one() -> None:
    recorder = Recorder()
    strategy = strategy_with(recorder, deadline=5.0)
    grid = Timed(federation(None), [*range(1, 10), 7.5], virtual=True)
    strategy.start(grid, to_record(MODEL), 2)
    records = [{c.partition: c for c in r.clients} for r in recorder.rounds[1:]]
    for of_round in records:
        assert [of_round[p].virtual_turnaround for p in range(10)] == [*range(1, 10), 7.5]
        assert {p for p in range(10) if of_round[p].reason == "late"} == {5, 6, 7, 8, 9}
        real = [of_round[p].turnaround_seconds for p in range(10)]
        assert all(seconds is not None and seconds >= 0 for seconds in real[:5])
        assert real[5:] == [None] * 5
    assert [record.virtual_time for record in recorder.rounds] == [None, 5.0, 10.0]


def test_without_a_virtual_clock_records_have_real_times_alone() -> None:
    recorder = Recorder()
    run(strategy_with(recorder), rounds=1)
    assert all(c.virtual_turnaround is None for c in recorder.rounds[-1].clients)
    assert all((c.turnaround_seconds or -1) >= 0 for c in recorder.rounds[-1].clients)
    assert recorder.rounds[-1].virtual_time is None
