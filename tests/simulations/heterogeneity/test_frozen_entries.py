"""Virtual time does not depend on which frozen entries a node happens to hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.cache_location import CACHE_DIR
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.training import Training
from hqde_fl.codec import Quantized
from hqde_fl.protocol.records import to_record
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.heterogeneity.bandwidth import LogUniformBandwidth
from hqde_fl.simulations.heterogeneity.client_times import ClientTimes
from hqde_fl.simulations.heterogeneity.message_bytes import SentBytes
from hqde_fl.simulations.heterogeneity.virtual_time_grid import VirtualTimeGrid
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Communication, Participation, Reporting
from hqde_fl.strategies.state import ModelState, ServerState
from hqde_fl.updates.roles import roles_of
from tests.simulations.test_held_entries import ADAPTER_NUMBERS, CLIENTS, TASK, network


class Rounds(Callback):
    """Keeps the rounds' records and states."""

    def __init__(self) -> None:
        self.records: list[RoundRecord] = []
        self.states: list[ServerState] = []

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        self.records.append(record)

    def on_state(self, state: ServerState, record: RoundRecord) -> None:
        self.states.append(state)


def start(
    cache: Callable[[int], str], rounds: int = 4, grid: InlineGrid | None = None, **more: Any
) -> tuple[Rounds, InlineGrid]:
    """Run rounds; ``cache`` gives the folder of each partition's node."""
    app = ensemble_app(TASK, training=Training(lr=0.02, batch_size=4))
    grid = grid or InlineGrid(app, CLIENTS, {}, 3)
    for context in grid._contexts.values():
        context.node_config[CACHE_DIR] = cache(int(context.node_config["partition-id"]))
    recorder, quantized = Rounds(), Quantized(4)
    strategy = HQDEStrategy(
        communication=Communication(codec=quantized, downlink=quantized),
        participation=Participation(fraction_evaluate=0.0),
        reporting=Reporting(callbacks=[recorder]),
        roles=roles_of(network()),
    )

    def model(member: int) -> ModelState:
        assert strategy.state is not None
        return strategy.state.models[member]

    times = ClientTimes(None, LogUniformBandwidth(up=0.1, down=0.1))
    slow = VirtualTimeGrid(grid, times, download_bytes=SentBytes(model))
    strategy.start(slow, to_record(initial_state(TASK, 1, Seeds(0))), rounds, **more)
    return recorder, grid


def test_neither_a_cache_nor_a_resume_changes_a_time(tmp_path: Path) -> None:
    cached, _ = start(lambda number: str(tmp_path / f"cache-{number}"))
    none, _ = start(lambda number: "")
    expected = [record.virtual_time for record in cached.records]
    assert [record.virtual_time for record in none.records] == expected
    assert cached.records[2].bytes_down < none.records[2].bytes_down / 10

    # nodes that lost their folders after round 2, but not their states
    half, grid = start(lambda number: str(tmp_path / f"half-{number}"), 2)
    rest, _ = start(lambda number: str(tmp_path / f"new-{number}"), 4, grid, resume=half.states[-1])
    assert [record.round for record in rest.records] == [3, 4]
    assert [record.virtual_time for record in rest.records] == expected[3:]
    assert cached.records[3].bytes_down < rest.records[0].bytes_down / 10


def test_the_time_of_a_packed_round_is_that_of_the_adapter(tmp_path: Path) -> None:
    rounds, _ = start(lambda number: "")
    times = [record.virtual_time or 0.0 for record in rounds.records]
    first, later = times[1] - times[0], times[3] - times[2]
    slowest = max(
        8e-5 / LogUniformBandwidth(up=1, down=1).connection(c, 1, Seeds(0)).up
        for c in range(CLIENTS)
    )
    assert first == pytest.approx(slowest * ADAPTER_NUMBERS * (4 + 0.5), rel=0.15)
    assert later == pytest.approx(slowest * ADAPTER_NUMBERS * (0.5 + 0.5), rel=0.4)
