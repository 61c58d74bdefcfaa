"""The virtual clock of a Grid: what takes time, who is late, and what a client cannot change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.errors import RunError
from hqde_fl.protocol.example_counts import examples_answer
from hqde_fl.protocol.grid_protocols import KeepsContexts, KeepsVirtualTime, KnowsPartitions
from hqde_fl.protocol.no_data import no_data
from hqde_fl.protocol.wrapped_grid import WrappedGrid
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks import IPM
from hqde_fl.simulations.attacks.attack_grid import AttackGrid
from hqde_fl.simulations.engines.fault_error_grid import FaultErrorGrid
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.heterogeneity.bandwidth import (
    Bandwidth,
    Connection,
    ConstantBandwidth,
    LogUniformBandwidth,
)
from hqde_fl.simulations.heterogeneity.client_times import ClientTimes
from hqde_fl.simulations.heterogeneity.drop_out import RandomDropOut
from hqde_fl.simulations.heterogeneity.drop_out_grid import DROPPED_OUT, DropOutGrid
from hqde_fl.simulations.heterogeneity.message_bytes import array_bytes
from hqde_fl.simulations.heterogeneity.speed import LogUniformSpeed, Speed
from hqde_fl.simulations.heterogeneity.virtual_time_grid import VirtualTimeGrid
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Participation, Reporting

CLIENTS, EXAMPLES = 6, 50


@dataclass(frozen=True)
class Slower(Speed):
    """Client i needs i + 1 seconds for each example."""

    def seconds(self, client: int, server_round: int, seeds: Seeds) -> float:
        return client + 1.0


@dataclass
class Clients:
    """A ClientApp that counts its training, and answers as it is told."""

    claim: float = EXAMPLES
    tells_examples: bool = True
    fails: bool = False
    trained: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def app(self) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            self.trained.append(int(context.node_config["partition-id"]))
            if self.fails:
                raise RuntimeError("no memory")
            arrays = ArrayRecord([np.zeros(1000, dtype=np.float32)])
            metrics = MetricRecord({"num-examples": self.claim})
            return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            return Message(RecordDict(), reply_to=message)

        if self.tells_examples:

            @app.query("examples")
            def examples(message: Message, context: Context) -> Message:
                self.asked.append(int(context.node_config["partition-id"]))
                return examples_answer(message, EXAMPLES)

        return app


def messages(grid: Any, kind: str = "train", **config: Any) -> list[Message]:
    content = RecordDict(
        {
            "arrays": ArrayRecord([np.zeros(2000, dtype=np.float32)]),
            "config": ConfigRecord({"server-round": 1, **config}),
        }
    )
    return [Message(content, node, kind, group_id="1") for node in grid.get_node_ids()]


def simulated(clients: Clients, times: ClientTimes, **more: Any) -> VirtualTimeGrid:
    return VirtualTimeGrid(InlineGrid(clients.app(), CLIENTS, {}), times, **more)


def times_of(grid: VirtualTimeGrid) -> list[float | None]:
    """The reply times by partition id."""
    times = grid.reply_times()
    return [times.get(node) for node in grid.get_node_ids()]


def test_download_latency_training_and_upload_add_up() -> None:
    bandwidth = ConstantBandwidth(up=1, down=4, latency=0.5)
    grid = simulated(Clients(), ClientTimes(Slower(), bandwidth, epochs=3, members=2))
    (first, *_) = sent = messages(grid)
    (reply, *_) = list(grid.send_and_receive(sent))
    down, up = 8 * array_bytes(first) / 4e6, 8 * array_bytes(reply) / 1e6
    assert array_bytes(first) == pytest.approx(8000, rel=0.05)
    expected = [0.5 + down + up + 3 * 2 * EXAMPLES * (i + 1) for i in range(CLIENTS)]
    assert times_of(grid) == pytest.approx(expected)
    assert grid.round_time() == pytest.approx(expected[-1])


def test_members_and_partial_work_in_the_message_count() -> None:
    grid = simulated(Clients(), ClientTimes(Slower(), epochs=2, members=3))
    list(grid.send_and_receive(messages(grid, members=[0, 2], work=0.25)))
    assert times_of(grid)[0] == pytest.approx(0.25 * 2 * 2 * EXAMPLES)


@pytest.mark.parametrize("claim", [1, 10**9, 1e9, -5, float("nan"), float("inf")])
def test_what_a_client_claims_changes_no_time(claim: float) -> None:
    times = ClientTimes(Slower(), ConstantBandwidth())
    honest, liar = simulated(Clients(), times), simulated(Clients(claim=claim), times)
    for grid in (honest, liar):
        list(grid.send_and_receive(messages(grid)))
    assert times_of(liar) == times_of(honest)


@pytest.mark.parametrize(
    ("claim", "counted"), [(EXAMPLES, EXAMPLES), (-1, 0), (float("nan"), 0), (float("inf"), 0)]
)
def test_a_stock_client_is_taken_at_its_word(
    caplog: pytest.LogCaptureFixture, claim: float, counted: float
) -> None:
    grid = simulated(Clients(claim, tells_examples=False), ClientTimes(Slower()))
    list(grid.send_and_receive(messages(grid, work=0.5)))  # which it does not know of
    assert times_of(grid) == pytest.approx([counted * (i + 1) for i in range(CLIENTS)])
    assert f"{CLIENTS} clients do not tell how many examples they have" in caplog.text


def test_a_client_is_asked_for_its_examples_once() -> None:
    clients = Clients()
    grid = simulated(clients, ClientTimes(Slower()))
    for count in (3, CLIENTS, CLIENTS):
        list(grid.send_and_receive(messages(grid)[:count]))
    assert clients.asked == list(range(CLIENTS))


@pytest.mark.parametrize("in_time", range(CLIENTS + 1))
def test_the_deadline_is_in_virtual_time_and_the_slow_ones_are_late(in_time: int) -> None:
    clients = Clients()
    grid = simulated(clients, ClientTimes(Slower()))
    deadline = EXAMPLES * (in_time + 0.5)
    sent = messages(grid)
    replies = list(grid.send_and_receive(sent, timeout=deadline))
    nodes = [reply.metadata.src_node_id for reply in replies]
    assert nodes == list(grid.get_node_ids())[:in_time]
    assert clients.trained == list(range(CLIENTS))  # who is late has trained
    assert times_of(grid) == pytest.approx([EXAMPLES * (i + 1) for i in range(CLIENTS)])
    everyone = in_time == CLIENTS
    assert grid.round_time() == pytest.approx(EXAMPLES * CLIENTS if everyone else deadline)


def test_a_reply_at_the_deadline_itself_is_in_time() -> None:
    grid = simulated(Clients(), ClientTimes(Slower()))
    assert len(list(grid.send_and_receive(messages(grid), timeout=3.0 * EXAMPLES))) == 3


class Silent(WrappedGrid):
    """A Grid on which the first client never answers a training message."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout))
        return replies[1:] if sent[0].metadata.message_type == "train" else replies


@pytest.mark.parametrize("deadline", [1e6, None])
def test_a_client_without_a_reply_is_late(deadline: float | None) -> None:
    inner = InlineGrid(Clients().app(), CLIENTS, {})
    grid = VirtualTimeGrid(Silent(inner), ClientTimes(Slower()))
    assert len(list(grid.send_and_receive(messages(grid), timeout=deadline))) == CLIENTS - 1
    assert times_of(grid)[0] is None
    assert grid.round_time() == (deadline or EXAMPLES * CLIENTS)


def test_a_client_that_fails_fails_at_the_end_of_its_training() -> None:
    grid = simulated(Clients(fails=True), ClientTimes(Slower(), ConstantBandwidth(latency=1)))
    replies = list(grid.send_and_receive(messages(grid), timeout=2.5 * EXAMPLES))
    assert [reply.has_error() for reply in replies] == [True, True]
    down = 8 * array_bytes(messages(grid)[0]) / 50e6
    assert times_of(grid)[1] == pytest.approx(1 + down + 2 * EXAMPLES)


def test_only_training_takes_time() -> None:
    grid = simulated(Clients(), ClientTimes(Slower()))
    list(grid.send_and_receive(messages(grid)))
    before = times_of(grid), grid.round_time()
    assert len(list(grid.send_and_receive(messages(grid, "evaluate"), timeout=1e-3))) == CLIENTS
    assert (times_of(grid), grid.round_time()) == before


def test_faults_add_their_seconds() -> None:
    grid = simulated(Clients(), ClientTimes(Slower()), delays=lambda number: {2: 7.0 * number})
    list(grid.send_and_receive(messages(grid)))
    assert times_of(grid)[1:3] == pytest.approx([2 * EXAMPLES, 3 * EXAMPLES + 7])


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_a_client_that_drops_out_does_not_train_and_fails_within_its_time(
    probability: float,
) -> None:
    clients, seeds = Clients(), Seeds(4)
    drop_out = RandomDropOut(probability)
    inner = DropOutGrid(InlineGrid(clients.app(), CLIENTS, {}), drop_out, seeds)
    grid = VirtualTimeGrid(inner, ClientTimes(Slower(), seeds=seeds), drop_out=drop_out)
    sent = messages(grid)
    replies = list(grid.send_and_receive(sent))
    parts = [drop_out.part(client, 1, seeds) for client in range(CLIENTS)]
    gone = [client for client, part in enumerate(parts) if part is not None]
    failed = {reply.metadata.src_node_id for reply in replies if reply.has_error()}
    assert {reply.error.reason for reply in replies if reply.has_error()} <= {DROPPED_OUT}
    nodes = list(grid.get_node_ids())
    assert failed == {nodes[client] for client in gone}
    assert clients.trained == [client for client in range(CLIENTS) if client not in gone]
    assert len(replies) == CLIENTS
    whole = [EXAMPLES * (i + 1.0) for i in range(CLIENTS)]
    expected = [w if p is None else p * w for w, p in zip(whole, parts, strict=True)]
    assert times_of(grid) == pytest.approx(expected)
    assert grid.round_time() == pytest.approx(max(expected))
    assert len(list(grid.send_and_receive(messages(grid, "evaluate")))) == CLIENTS


@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_drop_outs_have_their_rate_and_are_independent(probability: float) -> None:
    drop_out, seeds = RandomDropOut(probability), Seeds(1)
    drawn = np.array(
        [[drop_out.part(c, r, seeds) is not None for c in range(40)] for r in range(1, 41)]
    )
    assert drawn.mean() == pytest.approx(probability, abs=0.03)
    for axis in (0, 1):  # no client and no round has much more than its share
        assert drawn.mean(axis=axis).max() < probability + 0.3


def test_a_grid_around_keeps_the_virtual_time() -> None:
    grid = simulated(Clients(), ClientTimes(Slower()))
    wrapped = AttackGrid(FaultErrorGrid(grid, lambda number: {}), IPM(), frozenset())
    assert isinstance(wrapped, KeepsVirtualTime)
    assert isinstance(wrapped, KnowsPartitions)
    assert isinstance(wrapped, KeepsContexts)
    list(wrapped.send_and_receive(messages(grid)))
    assert wrapped.reply_times() == grid.reply_times()
    assert wrapped.round_time() == grid.round_time() > 0
    assert not isinstance(InlineGrid(ClientApp(), 2, {}), KeepsVirtualTime)


class Anonymous(WrappedGrid):
    """A Grid that does not know the partitions, as Flower's."""

    def __init__(self, grid: InlineGrid) -> None:
        super().__init__(grid)
        del self.partition_of

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)


def test_a_node_that_tells_no_partition_is_named() -> None:
    grid = VirtualTimeGrid(
        Anonymous(InlineGrid(Clients().app(), CLIENTS, {})), ClientTimes(Slower())
    )
    with pytest.raises(RunError, match=rf"partition id of node {next(iter(grid.get_node_ids()))}"):
        list(grid.send_and_receive(messages(grid)))


def test_a_round_without_messages_takes_no_time() -> None:
    app, records = ClientApp(), list[RoundRecord]()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return no_data(message)

    class Recorder(Callback):
        def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
            records.append(record)

    grid = VirtualTimeGrid(
        InlineGrid(app, CLIENTS, {}), ClientTimes(None, ConstantBandwidth(latency=2))
    )
    strategy = HQDEStrategy(
        participation=Participation(fraction_evaluate=0.0),
        reporting=Reporting(callbacks=[Recorder()]),
    )
    with pytest.raises(RunError):
        strategy.start(grid, ArrayRecord([np.zeros(3, dtype=np.float32)]), 2)
    assert [record.asked for record in records] == [0, CLIENTS, 0]
    assert records[1].virtual_time == pytest.approx(2, rel=0.01)
    assert records[2].virtual_time == records[1].virtual_time


# --- speeds and connections ---------------------------------------------------------------------


def test_log_uniform_speeds_span_their_ratio_around_the_median() -> None:
    speed, seeds = LogUniformSpeed(seconds_per_example=0.01, ratio=16), Seeds(3)
    seconds = np.array([speed.seconds(client, 1, seeds) for client in range(2000)])
    assert 0.0025 <= seconds.min() < 0.0026
    assert 0.039 < seconds.max() < 0.04
    assert np.median(seconds) == pytest.approx(0.01, rel=0.1)
    assert np.log(seconds / 0.0025).mean() == pytest.approx(np.log(16) / 2, rel=0.05)
    assert speed.seconds(5, 1, seeds) == speed.seconds(5, 9, seeds)
    assert speed.seconds(5, 1, seeds) != speed.seconds(5, 1, Seeds(4))


def test_jitter_is_drawn_for_each_round_and_client() -> None:
    speed = LogUniformSpeed(seconds_per_example=1, ratio=1, jitter=0.5)
    logs = np.log([[speed.seconds(c, r, Seeds(0)) for c in range(40)] for r in range(1, 41)])
    assert logs.std() == pytest.approx(0.5, rel=0.1)
    assert len(np.unique(logs)) == logs.size


def test_log_uniform_bandwidths_go_up_and_down_together() -> None:
    bandwidth = LogUniformBandwidth(up=2, down=8, ratio=4, latency=0.1)
    connections = [bandwidth.connection(client, 1, Seeds(2)) for client in range(500)]
    ups = [connection.up for connection in connections]
    assert 1 <= min(ups) < 1.1
    assert 3.9 < max(ups) < 4
    assert all(c.down == pytest.approx(4 * c.up) and c.latency == 0.1 for c in connections)


@dataclass(frozen=True)
class Uneven(Bandwidth):
    """A connection that is gone in every second round."""

    def connection(self, client: int, server_round: int, seeds: Seeds) -> Connection:
        return Connection(up=1 if server_round % 2 else 0.001)


def test_a_bandwidth_may_depend_on_the_round() -> None:
    grid = simulated(Clients(), ClientTimes(None, Uneven()))
    seconds: Mapping[int, float] = {}
    for number in (1, 2):
        sent = messages(grid)
        for message in sent:
            message.content["config"]["server-round"] = number
        list(grid.send_and_receive(sent))
        seconds = {**seconds, number: grid.round_time()}
    assert seconds[2] == pytest.approx(1000 * seconds[1])
