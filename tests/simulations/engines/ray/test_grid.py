"""The ray engine gives the results of one process, and survives any client that dies."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import ray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.schema import Metric, Span
from hqde_fl.monitor.spans import CollectedRecords, recorded_by
from hqde_fl.protocol.replies import read_once
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.engines.node_ids import node_partitions
from hqde_fl.simulations.engines.ray import dispatch
from hqde_fl.simulations.engines.ray.grid import RayGrid
from hqde_fl.simulations.engines.ray.pool import POOL
from hqde_fl.simulations.engines.ray.resources import Resources

pytestmark = [pytest.mark.usefixtures("one_ray"), pytest.mark.xdist_group("ray")]


def app_of() -> ClientApp:
    """Return an app whose clients do what the message's config says, for all tests."""
    import signal
    import time

    import numpy as np
    from flwr.app import Array, MetricRecord

    from hqde_fl.monitor.spans import record_training_metric

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = message.content.config_records["config"]
        partition = int(context.node_config["partition-id"])
        target, what = config.get("who", -1), config.get("what", "")
        if partition == target or target == "all":
            if what == "once" and not os.path.exists(str(config["file"])):
                open(str(config["file"]), "w").close()
                os._exit(1)
            elif what == "exit":
                os._exit(1)
            elif what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "raise":
                context.state["lost"] = MetricRecord({"rounds": -100})
                raise ValueError("out of luck")
            elif what == "hang":
                time.sleep(3600)
        record_training_metric("client", partition, epoch=1)
        seen = context.state.metric_records.get("seen", MetricRecord({"rounds": 0}))
        context.state["seen"] = MetricRecord({"rounds": int(seen["rounds"]) + 1})
        arrays = ArrayRecord(
            {
                name: Array((array.numpy() * 0.5 + partition).astype(np.float32))
                for name, array in message.content.array_records["arrays"].items()
            }
        )
        metrics = MetricRecord(
            {
                "num-examples": partition + 1,
                "rounds": context.state.metric_records["seen"]["rounds"],
                "partition": partition,
                "pid": os.getpid(),
                "gpus": len(os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(",", "")),
                "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
            }
        )
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def model(size: int = 10) -> ArrayRecord:
    import numpy as np

    return ArrayRecord([np.arange(size, dtype=np.float32), np.ones((2, 3), np.float32)])


def ask(
    grid: RayGrid | InlineGrid,
    nodes: list[int] | None = None,
    *,
    timeout: float | None = 300,
    size: int = 10,
    **config: str | int,
) -> dict[int, Message]:
    """Run one round and return the replies by node."""
    content = RecordDict({"arrays": model(size), "config": ConfigRecord(dict(config))})
    chosen = grid.get_node_ids() if nodes is None else nodes
    messages = [Message(content, node, "train") for node in chosen]
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    assert len(replies) == len({reply.metadata.src_node_id for reply in replies})
    return {reply.metadata.src_node_id: reply for reply in replies}


def metric(reply: Message, name: str) -> float:
    value = reply.content.metric_records["metrics"][name]
    assert isinstance(value, int | float)
    return value


def grid_of(partitions: int, *resources: Resources, seed: int = 3) -> RayGrid:
    return RayGrid(app_of(), partitions, {}, seed=seed, resources=resources)


class Holder:
    """An actor that only holds its resources."""

    def hold(self) -> None:
        """Return once the actor has started."""


def test_a_stock_strategy_gives_the_same_model_as_in_one_process() -> None:
    results = []
    for grid in (grid_of(12), InlineGrid(app_of(), 12, {}, seed=3)):
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=12)
        result = strategy.start(grid, model(20_000), num_rounds=3)
        results.append(result.arrays.to_numpy_ndarrays())
    for ours, theirs in zip(*results, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_replies_are_bit_equal_to_those_of_the_inline_engine() -> None:
    one, other = ask(grid_of(5), size=20_000), ask(InlineGrid(app_of(), 5, {}, seed=3), size=20_000)
    assert one.keys() == other.keys()
    for node in one:
        left = one[node].content.array_records["arrays"]
        right = other[node].content.array_records["arrays"]
        assert all(bytes(left[name].data) == right[name].data for name in right)
        assert metric(one[node], "partition") == metric(other[node], "partition")


def test_a_monitor_gets_the_phases_and_metrics_of_clients_in_workers() -> None:
    grid, collected = grid_of(3), CollectedRecords()
    ask(grid)
    with recorded_by(collected):
        ask(grid, what="raise", who=1)
    metrics = {r.client: r.value for r in collected.records if isinstance(r, Metric)}
    assert metrics == {0: 0.0, 2: 2.0}
    spans = [r for r in collected.records if isinstance(r, Span)]
    for client in range(3):
        own = [span for span in spans if span.client == client]
        assert [span.name for span in own] == ["wait", "train", "transfer"]
        assert [span.time for span in own] == sorted(span.time for span in own)


def test_every_client_keeps_its_own_state_between_rounds() -> None:
    grid = grid_of(30)
    ask(grid)
    half = grid.get_node_ids()[:15]
    ask(grid, half)
    replies = ask(grid)
    rounds = [metric(replies[node], "rounds") for node in grid.get_node_ids()]
    assert rounds == [3] * 15 + [2] * 15


def test_a_client_that_raises_gives_an_error_reply_and_keeps_the_state_it_had() -> None:
    grid = grid_of(4)
    culprit = grid.get_node_ids()[2]
    ask(grid)
    replies = ask(grid, what="raise", who=2)
    assert [node for node, reply in replies.items() if reply.has_error()] == [culprit]
    reason = replies[culprit].error.reason
    assert reason is not None
    assert reason.endswith("ValueError: out of luck")
    assert metric(ask(grid)[culprit], "rounds") == 2


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("exit", marks=pytest.mark.drills),
        pytest.param("kill", marks=pytest.mark.slow),
    ],
)
def test_a_client_that_kills_its_process_costs_nobody_else(what: str) -> None:
    """In each of ten rounds, every other client replies."""
    grid = grid_of(8)
    culprit = grid.get_node_ids()[5]
    times = 10 if what == "exit" else 2
    for _ in range(times):
        replies = ask(grid, what=what, who=5)
        assert len(replies) == 8
        assert [node for node, reply in replies.items() if reply.has_error()] == [culprit]
        reason = replies[culprit].error.reason
        assert reason is not None
        assert "the client's process died" in reason
    assert grid.counters.deaths == 1 + times  # twice in the first round
    assert metric(ask(grid)[culprit], "rounds") == 1


def test_a_client_whose_worker_dies_once_is_asked_again(tmp_path: Path) -> None:
    grid, file = grid_of(3), tmp_path / "died"
    for deaths in (1, 2):  # a later round starts anew
        replies = ask(grid, what="once", who=1, file=str(file))
        assert not any(reply.has_error() for reply in replies.values())
        assert (grid.counters.deaths, grid.counters.reruns) == (deaths, deaths)
        file.unlink()


@pytest.mark.slow
def test_who_dies_in_a_batch_is_found_and_the_others_run_again() -> None:
    grid = grid_of(200)
    ask(grid)  # measures: from now on clients run in batches
    replies = ask(grid, what="exit", who=77)
    assert len(replies) == 200
    wrong = [node for node, reply in replies.items() if reply.has_error()]
    assert wrong == [grid.get_node_ids()[77]]
    assert grid.counters.deaths == 3  # with its batch, then twice alone
    assert 1 < grid.counters.reruns <= 100
    assert {metric(r, "rounds") for n, r in replies.items() if n != wrong[0]} == {2}


@pytest.mark.slow
def test_the_deadline_cancels_who_is_not_done_and_the_next_round_goes_on() -> None:
    grid = grid_of(6)
    ask(grid)
    while any(slot.boot is not None for slot in POOL.slots):  # else all may wait for who hangs
        grid._advance(None)
    late = grid.get_node_ids()[1]
    replies = ask(grid, what="hang", who=1, timeout=20)
    assert set(grid.get_node_ids()) - set(replies) == {late}
    assert grid.counters.cancelled == 1
    assert len(ask(grid)) == 6


@pytest.mark.slow
def test_a_strategy_may_stop_reading_while_replies_are_there() -> None:
    grid = grid_of(6)
    content = RecordDict({"arrays": model(), "config": ConfigRecord()})
    messages = [Message(content, node, "train") for node in grid.get_node_ids()]
    replies = read_once(grid.send_and_receive(messages))
    next(replies)
    while not grid._replies:  # another reply waits to be read
        grid._advance(None)
    replies.close()  # type: ignore[attr-defined]
    assert not grid._replies
    assert not grid._pending
    assert len(ask(grid)) == 6


def test_messages_can_be_pushed_and_pulled_by_hand() -> None:
    grid = grid_of(3)
    content = RecordDict({"arrays": model(), "config": ConfigRecord()})
    keys = grid.push_messages([Message(content, node, "train") for node in grid.get_node_ids()])
    found: list[Message] = []
    while len(found) < 3:
        found += grid.pull_messages(keys)
    assert {reply.metadata.reply_to_message_id for reply in found} == set(keys)


@pytest.mark.slow
def test_groups_get_the_fractions_of_a_gpu_they_ask_for() -> None:
    grid = grid_of(
        6,
        Resources(num_cpus=0.5, num_gpus=0.5, partitions="0-2"),
        Resources(num_cpus=0.25, num_gpus=0.25),
    )
    replies = ask(grid)
    assert {metric(reply, "gpus") for reply in replies.values()} == {1}
    allocations = {slot.allocation.num_gpus for slot in POOL.slots}
    assert allocations == {0.5, 0.25}
    pids = {metric(replies[node], "pid") for node in grid.get_node_ids()[:3]}
    others = {metric(replies[node], "pid") for node in grid.get_node_ids()[3:]}
    assert not pids & others


def test_a_gpu_is_divided_by_the_clients_that_fit() -> None:
    grid_of(2, Resources(num_cpus=1, num_gpus="auto"))
    assert POOL.allocate([Resources()])[0].num_gpus == 0.5  # three CPUs over two GPUs


@pytest.mark.slow
def test_threads_follow_the_cpus() -> None:
    (reply,) = ask(grid_of(1, Resources(num_cpus=2, num_gpus=0))).values()
    assert metric(reply, "threads") == 2


def test_what_cannot_be_met_is_an_error_that_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"num-cpus = 64.* which has 3 CPUs, 2 GPUs"):
        grid_of(2, Resources(num_cpus=64))
    with pytest.raises(
        ConfigError, match=r"num-gpus in \[0, 1\], a whole number or 'auto', found 1.5"
    ):
        Resources(num_gpus=1.5)
    with pytest.raises(ConfigError, match="partitions such as '0-9,12', found '9-0'"):
        Resources(partitions="9-0")
    with pytest.raises(ConfigError, match="a partition is in more than one group"):
        grid_of(9, Resources(partitions="0-3"), Resources(partitions="3"))
    with pytest.raises(ConfigError, match="only one group may leave partitions empty"):
        grid_of(9, Resources(), Resources())


def test_node_ids_are_the_same_for_any_population_and_distinct() -> None:
    assert list(node_partitions(5, 1000))[:10] == list(node_partitions(5, 10))
    assert len(node_partitions(5, 100_000)) == 100_000
    assert node_partitions(5, 10).keys() != node_partitions(6, 10).keys()


# It is the last one, as it ends the workers that the others share.
def test_a_run_whose_workers_get_no_cpu_says_so_once_and_goes_on_when_they_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE", 0.2)
    POOL.close()
    blocker = ray.remote(num_cpus=3)(Holder).remote()
    ray.get(blocker.hold.remote())
    grid = grid_of(2, Resources(num_cpus=1, num_gpus=0))
    replies: list[Message] = []
    asking = threading.Thread(target=lambda: replies.extend(ask(grid).values()))
    with caplog.at_level("WARNING", "flwr"):
        asking.start()
        while not caplog.messages and asking.is_alive():
            asking.join(0.05)
        ray.kill(blocker)
        asking.join()
    (said,) = caplog.messages
    assert said.startswith("2 clients wait for a worker: each asks for 1 CPUs and 0 GPUs; the")
    assert "3 CPUs, 2 GPUs, of which 0 CPUs" in said
    assert len(replies) == 2
