"""Efficiency-weighted rules in a federation: what the server measures, clients count for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict

from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import Aggregator, Mean, Superposition, Tree
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.store import TREE, Snapshot
from hqde_fl.strategies.state import ServerState
from tests.strategies.federation import (
    HOSTILE,
    MODEL,
    Recorder,
    Tamper,
    crash,
    federation,
    metric,
    strategy_with,
)
from tests.strategies.timed import Timed

SLOW = 7
SECONDS = [4.0 if partition == SLOW else 1.0 for partition in range(10)]


def run(
    rule: Aggregator,
    rounds: int = 3,
    tamper: Tamper | None = None,
    *,
    virtual: bool = False,
    seconds: Sequence[float] = SECONDS,
    resume: ServerState | None = None,
    **options: Any,
) -> tuple[Recorder, ServerState]:
    recorder = Recorder()
    strategy = strategy_with(recorder, rule=rule, **options)
    grid = Timed(federation(tamper), seconds, virtual=virtual)
    strategy.start(grid, to_record(MODEL), rounds, resume=resume)
    assert strategy.state is not None
    return recorder, strategy.state


@pytest.mark.parametrize("virtual", [False, True])
@pytest.mark.parametrize(
    ("rule", "ratio"),
    [
        (Mean(efficiency=True), 0.5),
        (Mean(efficiency=0.5), (0.2 / 0.5) ** 0.5),
        (Tree(Mean(efficiency=1.0), Mean(), 3), 0.5),
        (Superposition(confidence="efficiency", longest=0), torch.tensor(-1.2).exp().item()),
    ],
    ids=str,
)
def test_a_slow_client_counts_less_once_it_is_known(
    rule: Aggregator, ratio: float, virtual: bool
) -> None:
    recorder, state = run(rule, 2, metric("num-examples", 14), virtual=virtual)
    shares = [[recorder.client(p, r).influence for p in (SLOW, 6)] for r in (1, 2)]
    assert shares[0][0] == pytest.approx(shares[0][1])  # nothing is known of anyone
    assert shares[1][0] / shares[1][1] == pytest.approx(ratio, rel=0.1)  # examples differ a little
    assert state.histories[SLOW].seconds == 4.0


def test_a_client_that_failed_counts_less_when_it_is_back() -> None:
    rounds = iter(range(1, 9))

    def fails_at_first(content: RecordDict) -> RecordDict:
        return crash(content) if next(rounds) == 1 else content

    recorder, state = run(Mean(efficiency=True), 2, fails_at_first, seconds=[1.0] * 10)
    assert state.histories[HOSTILE].success_rate == pytest.approx(0.75 + 0.25 * 0.25)
    # its time is not known yet: that of an average client
    other, own = (recorder.client(p).influence for p in (5, HOSTILE))
    assert own / other == pytest.approx(0.75, rel=0.05)


def test_late_clients_count_less_when_they_are_in_time() -> None:
    state = None
    for seconds in ([9.0 if p == SLOW else 1.0 for p in range(10)], [1.0] * 10):
        round_ = 1 if state is None else 2
        recorder, state = run(
            Mean(efficiency=True), round_, virtual=True, seconds=seconds, resume=state, deadline=5.0
        )
    own, other = (recorder.client(p).influence for p in (SLOW, 6))
    assert own / other == pytest.approx(0.5, rel=0.12)
    assert state is not None
    assert state.virtual_time == 6.0
    # the server only knows that it needs more than the deadline: half of twice, and of once
    assert state.histories[SLOW].seconds == pytest.approx(3.0)


def test_a_claim_of_many_examples_has_a_bounded_effect() -> None:
    rule = Mean(weighted=True, efficiency=True)
    honest, _ = run(rule, 3, metric("num-examples", 14))
    lying, _ = run(rule, 3, metric("num-examples", 1e9))
    gain = lying.client(HOSTILE).influence / honest.client(HOSTILE).influence
    assert gain <= 10 * 2


@pytest.mark.parametrize("virtual", [False, True])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, virtual: bool) -> None:
    rule = Mean(weighted=True, efficiency=1.0)
    whole, at_once = run(rule, 4, virtual=virtual)
    _, half = run(rule, 2, virtual=virtual)
    container.write(tmp_path / "file", TREE, Snapshot("{}", half))
    read = container.read(tmp_path / "file", TREE).state
    assert {c: h.seconds for c, h in read.histories.items()} == dict(enumerate(SECONDS))
    resumed, in_two = run(rule, 4, virtual=virtual, resume=read)
    states = [from_record(state.arrays()) for state in (at_once, in_two)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in MODEL)
    assert in_two.virtual_time == at_once.virtual_time == (16.0 if virtual else 0.0)
    times = [record.virtual_time for record in resumed.rounds]
    assert times == [record.virtual_time for record in whole.rounds[3:]]
    assert times == ([12.0, 16.0] if virtual else [None, None])


def test_no_history_is_kept_for_a_rule_and_a_selector_that_read_none() -> None:
    assert run(Mean(weighted=True))[1].histories == {}
