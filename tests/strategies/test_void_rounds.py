"""A run without any aggregate fails, and its error names the reasons."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hqde_fl.errors import RunError
from hqde_fl.protocol.records import to_record
from hqde_fl.rules import Krum
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord
from hqde_fl.strategies.optimizers import SGD
from hqde_fl.strategies.void_rounds import VoidRounds, format_ranges
from tests.strategies.federation import MODEL, Recorder, federation, run, strategy_with, weight


def record(number: int, *reasons: str | None, void: bool = True, note: str = "") -> RoundRecord:
    clients = tuple(
        ClientRecord(number, node, node, not reason, 0.0, reason, 1, 1, None)
        for node, reason in enumerate(reasons)
    )
    return RoundRecord(number, void=void, note=note or None, clients=clients)


def test_the_reason_counts_what_became_of_the_clients_and_says_what_to_change() -> None:
    void = VoidRounds(deadline=2.5)
    void.add(record(1, "late", "late", "failed: KeyError: 'x'", "skipped: no data"))
    void.add(record(2, "late", "failed: KeyError: 'x'", "failed: other", note="too few"))
    assert void.failure() == (
        "no round produced an aggregate: the model is the initial one; of 7 replies due "
        "3 late (raise the deadline of 2.5 s, or give clients less to do); "
        "3 failed (mostly: KeyError: 'x'); "
        "1 skipped (no data: check how the data are divided); last round: too few"
    )
    assert void.summary() == "2 of 2 rounds were void, the model was kept: 1-2"


def test_clients_that_lack_a_part_of_the_model_need_no_change() -> None:
    void = VoidRounds(deadline=2.5)
    void.add(record(1, "missing: needs the model in full", "late"))
    void.add(record(2, "missing: needs the model in full"))
    assert void.failure() == (
        "no round produced an aggregate: the model is the initial one; of 3 replies due "
        "2 missing (they lacked what they had said they hold: nothing to do, the next message is "
        "in full); 1 late (raise the deadline of 2.5 s, or give clients less to do)"
    )


def test_rounds_with_an_aggregate_are_not_void() -> None:
    void = VoidRounds(1.0)
    assert void.summary() is None
    for number in range(1, 8):
        void.add(record(number, None, "late", void=number in (2, 3, 7)))
    assert void.summary() == "3 of 7 rounds were void, the model was kept: 2-3, 7"


def test_ranges_of_numbers() -> None:
    assert format_ranges([]) == ""
    assert format_ranges([4]) == "4"
    assert format_ranges([1, 2, 3, 5, 7, 8]) == "1-3, 5, 7-8"


class Offline(InlineGrid):
    """A Grid that loses all replies of the given rounds."""

    def __init__(self, *rounds: int) -> None:
        super().__init__(federation(None)._client_app, 10, {}, seed=1)
        self._lost = {str(number) for number in rounds}

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        sent = list(messages)
        replies = super().send_and_receive(sent, timeout=timeout)
        return [] if sent[0].metadata.group_id in self._lost else replies


def test_some_void_rounds_are_one_line_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    with caplog.at_level(logging.INFO, "flwr"):
        strategy_with(recorder).start(Offline(2, 3), to_record(MODEL), 4)
    assert [record.void for record in recorder.rounds[1:]] == [False, True, True, False]
    assert "2 of 4 rounds were void, the model was kept: 2-3" in caplog.text


def test_callbacks_hear_of_the_end_before_the_run_fails() -> None:
    ended = []

    class Listener(Recorder):
        def on_end(self, arrays) -> None:  # type: ignore[no-untyped-def]
            ended.append(len(self.rounds))

    with pytest.raises(RunError, match="10 late"):
        strategy_with(Listener()).start(Offline(1), to_record(MODEL), 1)
    assert ended == [2]


def test_a_run_resumed_after_rounds_that_were_aggregated_has_learnt_something() -> None:
    first = strategy_with(Recorder())
    run(first, rounds=1)
    assert first.state is not None
    assert first.state.aggregated == 1
    again = strategy_with(Recorder())
    again.start(Offline(2), to_record(MODEL), 2, resume=first.state)
    assert again.state is not None
    assert (again.state.round, again.state.aggregated) == (2, 1)


def test_a_checkpoint_that_did_not_count_its_rounds_is_no_failure() -> None:
    """Such a checkpoint does not tell whether its rounds had an aggregate."""
    first = strategy_with(Recorder())
    run(first, rounds=2)
    assert first.state is not None
    earlier = replace(first.state, aggregated=None)
    again = strategy_with(Recorder())
    again.start(Offline(3), to_record(MODEL), 3, resume=earlier)
    assert again.state is not None
    assert again.state.aggregated is None


def test_a_failed_run_that_is_resumed_says_since_when_it_counts() -> None:
    failed = strategy_with(Recorder())
    with pytest.raises(RunError, match="of 20 replies due 20 late"):
        failed.start(Offline(1, 2), to_record(MODEL), 2)
    for rounds, reason in ((2, "no round was left to run"), (3, "10 replies due since round 3 10")):
        with pytest.raises(RunError, match=reason):
            strategy_with(Recorder()).start(
                Offline(1, 2, 3), to_record(MODEL), rounds, resume=failed.state
            )


def test_a_run_of_no_rounds_has_nothing_to_learn() -> None:
    run(strategy_with(Recorder()), rounds=0)


def test_a_rule_that_never_runs_and_an_update_that_never_is_finite_fail_the_run() -> None:
    with pytest.raises(RunError, match=r"last round: Krum\(f=4\) needs at least 11 updates"):
        run(strategy_with(Recorder(), rule=Krum(f=4)))
    biggest = weight(np.full((2, 3), np.finfo(np.float32).max, np.float32))
    with pytest.raises(RunError, match=r"last round: the aggregated .* not finite \(numbers"):
        run(strategy_with(Recorder(), server_optimizer=SGD(lr=1e4)), biggest)


HALF = {"w": torch.ones(4).bfloat16()}


def server_weights(grid: InlineGrid, rounds: int, **options: Any) -> torch.Tensor:
    """Return the server's float32 weights after steps that bfloat16 cannot represent."""
    strategy = strategy_with(Recorder(), server_optimizer=SGD(lr=2e-3))
    strategy.start(grid, to_record(HALF), rounds, **options)
    assert strategy.state is not None
    return strategy.state.models[0].flat


def test_the_servers_precision_outlasts_void_rounds_and_a_resumed_run() -> None:
    expected = server_weights(federation(None), 5)
    assert bool((expected > 1.009).all())
    assert torch.equal(server_weights(Offline(3), 6), expected)
    first = strategy_with(Recorder(), server_optimizer=SGD(lr=2e-3))
    first.start(federation(None), to_record(HALF), 2)
    assert torch.equal(server_weights(federation(None), 5, resume=first.state), expected)
