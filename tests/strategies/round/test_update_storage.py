"""Updates that exceed the limit of memory are moved as they arrive, to the same result."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.distributed.auto_executor import AutoExecutor
from hqde_fl.protocol.records import to_record
from hqde_fl.protocol.replies import read_once
from hqde_fl.protocol.wrapped_grid import WrappedGrid
from hqde_fl.rules import Aggregator, Krum, Mean, Median
from tests.strategies.federation import MODEL, Recorder, federation, strategy_with


class Watched(WrappedGrid):
    """Counts the replies that are alive when the next one is asked for."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.alive: list[int] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        references: list[weakref.ref[Any]] = []
        replies = read_once(self._grid.send_and_receive(messages, timeout=timeout))
        while True:
            gc.collect()
            self.alive.append(sum(reference() is not None for reference in references))
            if (reply := next(replies, None)) is None:
                return
            references += [weakref.ref(array.data) for array in _views(reply)]
            yield reply
            del reply


class _Bytes(bytearray):
    """Bytes of an array that a weak reference can point to."""


def _views(reply: Message) -> Iterator[Any]:
    """Yield a reply's arrays, after their bytes have become ones that can be watched."""
    for array in reply.content.array_records["arrays"].values():
        array.data = _Bytes(array.data)  # type: ignore[assignment]
        yield array


def run(executor: AutoExecutor, rule: Aggregator, **options: Any) -> tuple[Any, Watched]:
    """Run two rounds; return the final model and the grid."""
    grid = Watched(federation(None))
    strategy = strategy_with(Recorder(), rule=rule, executor=executor, **options)
    strategy.start(grid, to_record(MODEL), 2)
    assert strategy.state is not None
    return strategy.state.arrays(), grid


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Mean(), Median(), Krum(2)], ids=str)
def test_the_final_model_is_the_same(rule: Aggregator) -> None:
    assert run(AutoExecutor(memory=0.0), rule)[0] == run(AutoExecutor(memory=1.0), rule)[0]


@pytest.mark.slow
def test_replies_are_dropped_as_soon_as_their_updates_have_been_moved() -> None:
    _, kept = run(AutoExecutor(memory=1.0), Median(), fraction_evaluate=0.0)
    assert max(kept.alive) >= 10  # the updates are views of the replies
    _, moved = run(AutoExecutor(memory=0.0), Median(), fraction_evaluate=0.0)
    assert max(moved.alive) == 0


@pytest.mark.slow
def test_a_line_in_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("flwr")
    logger.addHandler(caplog.handler)
    try:
        run(AutoExecutor(memory=0.0), Mean())
    finally:
        logger.removeHandler(caplog.handler)
    assert "round 1: 10 updates of 3.2e-05 MB are kept in a file in " in caplog.text
