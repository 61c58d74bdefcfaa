"""Packed replies are screened in threads, with the result of screening one after the other."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.codec import EntropyCoded
from hqde_fl.protocol.packed_updates import DELTA, to_packed
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.protocol.screening import Accepted, Rejected, screen
from hqde_fl.strategies.round import packed_replies, reply_screening
from hqde_fl.strategies.round.packed_replies import in_order
from tests.strategies.federation import HOSTILE, MODEL, Recorder, federation, strategy_with


class Begun:
    """Futures of numbers, done when they are told."""

    def __init__(self, packed: set[int]) -> None:
        self.packed, self.futures = packed, dict[int, Future[int]]()

    def __call__(self, reply: int) -> Future[int] | None:
        if reply not in self.packed:
            return None
        return self.futures.setdefault(reply, Future())


@pytest.mark.parametrize("packed", [set(), {0}, {1, 2, 3}, {0, 1, 2, 3, 4, 5}])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_replies_come_in_order_and_few_are_begun_at_once(packed, limit):
    begin, seen, most = Begun(packed), [], 0

    def replies():
        nonlocal most
        for reply in range(6):
            most = max(most, sum(r >= len(seen) for r in begin.futures))
            yield reply

    for reply, arrived, future in in_order(replies(), begin, limit):
        assert future is begin.futures.get(reply)
        assert arrived > 0
        seen.append(reply)
    assert seen == list(range(6))
    assert most == min(limit, len(packed))


def test_a_reply_that_is_done_waits_for_no_other():
    begin, read = Begun({0, 1}), []

    def replies():
        for reply in range(3):
            read.append(reply)
            yield reply

    def begin_done(reply):
        future = begin(reply)
        if future is not None:
            future.set_result(reply)
        return future

    assert next(in_order(replies(), begin_done, 5))[0] == 0
    assert read == [0]


def corrupt(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Change a byte of the update of one client."""
    reply = call_next(message, context)
    if context.node_config["partition-id"] == HOSTILE:
        record = reply.content.array_records["arrays"]
        data = bytearray(record[DELTA].data)
        data[-1] ^= 1
        record[DELTA] = to_packed(bytes(data))
    return reply


def outcome(threads: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[object], set[str]]:
    """Return the model and what became of each client, and the threads that screened replies."""
    names, recorder = set(), Recorder()

    def noted(*args: Any, **options: Any) -> Accepted | Rejected:
        names.add(threading.current_thread().name.split("_")[0])
        return screen(*args, **options)

    monkeypatch.setattr(reply_screening, "screen", noted)
    monkeypatch.setattr(packed_replies, "MIN_DECODED", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    strategy = strategy_with(recorder)
    grid = federation(None, mods=[corrupt, CodecMod(EntropyCoded(2))])
    arrays = strategy.start(grid, to_record(MODEL), 2).arrays
    model = {name: tensor.tolist() for name, tensor in from_record(arrays).items()}
    reasons = [[c.reason for c in record.clients] for record in recorder.rounds]
    return [model, reasons], names


def test_a_round_in_threads_is_the_round_without(monkeypatch):
    alone, by = outcome(1, monkeypatch)
    assert by == {"MainThread"}
    together, by = outcome(3, monkeypatch)
    assert by == {"decode"}
    assert together == alone
    reasons = [reason for reason in together[1][-1] if reason]
    assert len(reasons) == 1
    assert reasons[0].startswith("rejected: packed update: the checksum does not match")
