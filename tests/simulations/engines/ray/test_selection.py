"""Selection on Ray by what is measured there: workers that die, and the load of machines."""

from __future__ import annotations

import os
import signal

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hqde_fl.protocol.grid_protocols import MeasuresHosts
from hqde_fl.protocol.records import to_record
from hqde_fl.selection import ClientHistory
from hqde_fl.selection.adaptive import AdaptiveSelector
from hqde_fl.simulations.engines.ray.grid import RayGrid
from tests.strategies.federation import MODEL, Recorder, honest, strategy_with

pytestmark = [pytest.mark.usefixtures("one_ray"), pytest.mark.xdist_group("ray")]

DOOMED, BROKEN_UNTIL, ROUNDS = 2, 14, 36


def app() -> ClientApp:
    """Client ``DOOMED`` kills its worker until round ``BROKEN_UNTIL``."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        server_round = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
        if context.node_config["partition-id"] == DOOMED and server_round <= BROKEN_UNTIL:
            os.kill(os.getpid(), signal.SIGKILL)
        return Message(honest(message, context), reply_to=message)

    return app


@pytest.mark.slow
def test_adaptive_avoids_a_client_whose_worker_is_killed_until_it_is_back() -> None:
    recorder = Recorder()
    grid = RayGrid(app(), 6, {})
    strategy = strategy_with(recorder, selector=AdaptiveSelector(0.5))
    rates = {}

    def rounds(first: int, last: int) -> float:
        """Return how many times its fair share the doomed client was chosen."""
        chosen = [client.partition for r in recorder.rounds[first:last] for client in r.clients]
        return chosen.count(DOOMED) / (len(chosen) / 6)

    strategy.start(
        grid,
        to_record(MODEL),
        ROUNDS,
        should_stop=lambda number, result: bool(rates.update({number: success(strategy)})),
    )
    assert grid.counters.deaths >= 3
    assert rates[BROKEN_UNTIL] < 0.5
    assert rounds(7, BROKEN_UNTIL + 1) < 0.6
    assert rates[ROUNDS] > 0.75
    # it always runs alone now, and how much longer that takes depends on the machine
    assert rounds(BROKEN_UNTIL + 8, ROUNDS + 1) > 0.4


def success(strategy) -> float:  # type: ignore[no-untyped-def]
    return strategy.state.histories.get(DOOMED, ClientHistory()).success_rate


def test_the_load_of_a_clients_machine_is_measured() -> None:
    grid = RayGrid(app(), 3, {})
    assert isinstance(grid, MeasuresHosts)
    strategy = strategy_with(Recorder(), selector=AdaptiveSelector())
    strategy.start(grid, to_record(MODEL), 1)
    assert strategy.state is not None
    loads = {grid.partition_of(node): load for node, load in grid.host_loads().items()}
    assert loads.keys() == {0, 1, 2}
    assert all(0 <= load <= 1 for load in loads.values())
    assert loads == {p: h.host_load for p, h in strategy.state.histories.items()}
