"""A representative batch of the hostile catalogue on the engines that run clients here."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.simulations.audit.honest_clients import honest_content, initial_model
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.engines.ray.grid import RayGrid
from tests.hostile.batch import HONEST, Rounds, batch_app, check, rejected, strategy

ROWS = [
    *rejected("arrays", "files", "metrics", "records", "packed"),
    *(row for row in rejected("envelopes") if row.name.endswith("-error")),
]
NAMES = [row.name for row in ROWS]


def test_inline() -> None:
    rounds = Rounds()
    grid = InlineGrid(batch_app(NAMES), len(NAMES) + HONEST, {})
    strategy(rounds).start(grid, initial_model(), num_rounds=1)
    check(rounds, ROWS, alternative="failed: ")  # what protobuf cannot hold ends with the client


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
@pytest.mark.xdist_group("ray")
def test_ray() -> None:
    rounds = Rounds()
    grid = RayGrid(batch_app(NAMES), len(NAMES) + HONEST, {})
    strategy(rounds).start(grid, initial_model(), num_rounds=1)
    check(rounds, ROWS)


@pytest.mark.usefixtures("one_ray")
@pytest.mark.xdist_group("ray")
def test_ray_with_a_large_context() -> None:
    """The state stays in the object store and is used in the next round."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        held = context.state.config_records.get("junk")
        assert (held is not None) == (message.metadata.group_id == "2" and partition == 0)
        if partition == 0:
            context.state["junk"] = ConfigRecord({"junk": bytes(64 * 2**20)})
        content: RecordDict = honest_content(message, partition)
        return Message(content, reply_to=message)

    rounds = Rounds()
    strategy(rounds).start(RayGrid(app, HONEST, {}), initial_model(), num_rounds=2)
    check(rounds, [])
