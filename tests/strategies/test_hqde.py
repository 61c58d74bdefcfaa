"""HQDEStrategy with clients that are honest, hostile, dead or late."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp.strategy import Result

from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.codec import ErrorFeedback, Identity, Quantized
from hqde_fl.errors import CohortError, ConfigError, RunError
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import ByzantineFilter, Krum, Median, Tree, TrimmedMean
from hqde_fl.selection import Uniform
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies import presets
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.optimizers import SGD, Adam
from hqde_fl.strategies.presets import byzantine_filter
from hqde_fl.strategies.settings import Aggregation, Communication, Participation
from hqde_fl.strategies.state import ServerState
from tests.strategies.federation import (
    HOSTILE,
    MODEL,
    Recorder,
    change,
    crash,
    federation,
    honest,
    run,
    run_void,
    strategy_with,
    weight,
)

NO_EVALUATION = Participation(fraction_evaluate=0.0)


def test_stock_fedavg_is_the_weighted_mean_of_the_weights() -> None:
    """The mean of the updates is the mean of the weights, as stock Flower computes it."""
    from flwr.serverapp.strategy import FedAvg

    ours = run(HQDEStrategy(participation=NO_EVALUATION), rounds=3)
    initial = to_record({k: v for k, v in MODEL.items() if v.is_floating_point()})
    stock = FedAvg(fraction_evaluate=0.0).start(federation(None), initial, 3)
    for name, array in stock.arrays.items():
        np.testing.assert_allclose(ours[name].numpy(), array.numpy(), rtol=1e-5)


def test_integer_buffers_keep_their_dtype_and_take_the_median() -> None:
    model = run(strategy_with(Recorder()), change("steps", Array(np.array(10**9))), rounds=1)
    assert model["steps"].dtype == torch.int64
    assert int(model["steps"]) == 4


def test_half_precision_travels_as_it_is() -> None:
    initial = {"a": torch.ones(3).half(), "b": torch.ones(2).bfloat16()}
    arrays = strategy_with(Recorder()).start(federation(None), to_record(initial), 1).arrays
    state = from_record(arrays)
    assert state["a"].dtype == torch.float16
    assert state["b"].dtype == torch.bfloat16
    assert abs(float(state["b"][0]) - 2) < 0.05


def test_the_filter_drops_an_attacker_and_says_so() -> None:
    recorder = Recorder()
    strategy = strategy_with(recorder, rule=ByzantineFilter())
    model = run(strategy, weight(np.full((2, 3), -500, np.float32)))
    assert recorder.client(HOSTILE).reason == "filtered"
    assert recorder.rounds[-1].filtered == 1
    assert recorder.rounds[-1].diagnostics["filter-dropped"] == [HOSTILE]
    assert sum(client.influence for client in recorder.rounds[-1].clients) == pytest.approx(1)
    torch.testing.assert_close(model["layer.weight"], MODEL["layer.weight"] + 2, atol=0.1, rtol=0)
    assert strategy.state is not None
    reputation = strategy.state.models[0].rule["0"]["reputation"]
    assert reputation[str(HOSTILE)] == pytest.approx(0.8)


def test_below_quorum_the_model_is_kept_and_the_round_says_so() -> None:
    recorder = Recorder()
    model = run_void(strategy_with(recorder, quorum=10), crash)
    torch.testing.assert_close(model, MODEL)
    note = recorder.rounds[1].note
    assert note == "quorum needs at least 10 updates, found 9 (10 asked, 1 rejected or failed)"
    assert recorder.rounds[1].kept == 0


def test_too_few_for_the_rule_keeps_the_model_and_names_both_numbers() -> None:
    recorder = Recorder()
    run_void(strategy_with(recorder, rule=TrimmedMean(f=3)), rounds=1, partitions=6)
    assert recorder.rounds[1].note == "TrimmedMean(f=3) needs at least 7 updates, found 6"


def test_a_quorum_below_the_rules_bound_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"TrimmedMean\(f=3\) needs at least 7 updates, found 6"):
        run(strategy_with(Recorder(), rule=TrimmedMean(f=3), quorum=2), partitions=6)


def test_a_quorum_below_the_rules_bound_is_no_error_where_clients_were_only_late() -> None:
    """The rule works with all ten clients, so slow clients must not be able to end the run."""
    recorder = Recorder()
    strategy = strategy_with(recorder, rule=Krum(f=3), quorum=2)
    strategy.start(Absent(), to_record(MODEL), 2)
    assert recorder.rounds[1].note == (
        "Krum(f=3) needs at least 9 updates, found 8 (10 asked, 2 late)"
    )
    assert [record.void for record in recorder.rounds] == [False, True, False]


class Absent(InlineGrid):
    """A Grid that loses the replies of two clients in round 1."""

    def __init__(self) -> None:
        grid = federation(None)
        super().__init__(grid._client_app, 10, {}, seed=1)

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        sent = list(messages)
        replies = list(super().send_and_receive(sent, timeout=timeout))
        return replies[2:] if sent[0].metadata.group_id == "1" else replies


def test_an_overflowing_result_keeps_the_model() -> None:
    recorder = Recorder()
    biggest = np.full((2, 3), np.finfo(np.float32).max, np.float32)
    strategy = strategy_with(recorder, server_optimizer=SGD(lr=1e4))
    model = run_void(strategy, weight(biggest), rounds=1)
    torch.testing.assert_close(model, MODEL)
    assert recorder.rounds[1].note == "the aggregated update is not finite"


def test_late_clients_are_late_and_do_not_count_as_faulty() -> None:
    recorder = Recorder()
    with pytest.raises(RunError, match=r"of 10 replies due 10 late \(raise the deadline"):
        strategy_with(recorder).start(federation(None), to_record(MODEL), 1, timeout=-1)
    assert recorder.rounds[1].late == 10
    assert [client.bytes_up for client in recorder.rounds[1].clients] == [0] * 10
    assert recorder.rounds[
        1
    ].note == "Mean(weighted=False, cap=10.0, efficiency=0.0) needs at least 1 updates, " + (
        "found 0 (10 asked, 10 late)"
    )


def test_the_record_before_the_first_round_counts_nothing() -> None:
    recorder = Recorder()
    run(strategy_with(recorder), rounds=1)
    record = recorder.rounds[0]
    counts = ("round", "asked", "kept", "filtered", "rejected", "failed", "late", "missing")
    counts += ("skipped", "feedback_lost", "bytes_down", "bytes_up")
    assert {name: getattr(record, name) for name in counts} == dict.fromkeys(counts, 0)
    assert (record.void, record.f, record.f_used, record.note) == (False, None, None, None)
    assert record.clients == ()


class Twice(InlineGrid):
    """A Grid that delivers one client's reply twice, and a reply to a message never sent."""

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        replies = list(super().send_and_receive(messages, timeout=timeout))
        stranger = Message(replies[0].content, reply_to=replies[0])
        stranger.metadata.__dict__.update(_src_node_id=99, _reply_to_message_id="unknown")
        return [*replies, replies[HOSTILE], stranger]


def test_duplicates_are_rejected_and_strangers_ignored() -> None:
    recorder = Recorder()
    app = ClientApp()
    app.train()(lambda message, context: Message(honest(message, context), reply_to=message))
    strategy_with(recorder).start(Twice(app, 6, {}), to_record(MODEL), 1)
    assert recorder.client(HOSTILE).reason == "rejected: duplicate reply"
    assert recorder.rounds[1].kept == 5


def test_the_same_seed_gives_the_same_bits_and_the_same_selection() -> None:
    models, chosen = [], []
    for _ in range(2):
        recorder = Recorder()
        selector = Uniform(fraction=0.3)
        models.append(run(strategy_with(recorder, selector=selector, seed=5), rounds=4))
        chosen.append([[c.partition for c in record.clients] for record in recorder.rounds[1:]])
    assert all(torch.equal(models[0][name], models[1][name]) for name in MODEL)
    assert chosen[0] == chosen[1]
    assert [len(round_) for round_ in chosen[0]] == [3, 3, 3, 3]
    assert len({tuple(round_) for round_ in chosen[0]}) > 1


def test_server_optimizer_moments_last_over_rounds() -> None:
    momentum = run(strategy_with(Recorder(), server_optimizer=SGD(momentum=0.5)), rounds=3)
    plain = run(strategy_with(Recorder()), rounds=3)
    ratio = momentum["layer.bias"] / plain["layer.bias"]
    torch.testing.assert_close(ratio, torch.full((2,), (1 + 1.5 + 1.75) / 3))
    adam = run(strategy_with(Recorder(), server_optimizer=Adam(lr=0.1)), rounds=3)
    assert bool((adam["layer.bias"] > 0.01).all())


def test_client_evaluation_counts_each_client_once_and_survives_a_liar() -> None:
    recorder = Recorder()
    run(strategy_with(recorder, fraction_evaluate=1.0), crash, rounds=1)
    values = {"eval-loss": 2.0, "eval-loss-max": 2.0, "eval-loss-min": 2.0}
    assert recorder.rounds[1].clients_evaluate == {**values, "eval-loss-variance": 0.0}


def test_bytes_are_those_of_the_serialised_messages() -> None:
    recorder = Recorder()
    run(strategy_with(recorder), rounds=1)
    record = recorder.rounds[1]
    arrays = sum(len(array.data) for array in to_record(MODEL).values())
    for client in record.clients:
        assert arrays < client.bytes_down < arrays + 400
        assert arrays < client.bytes_up < arrays + 400
    assert record.bytes_up == sum(client.bytes_up for client in record.clients)
    for total, parts in (
        (record.bytes_down, record.bytes_down_by_role),
        (record.bytes_up, record.bytes_up_by_role),
    ):
        assert sum(parts.values()) == total
        assert 0 < parts["other"] < parts["trainable"] + parts["counters"]


def test_configuration_reaches_the_clients_untouched() -> None:
    seen: list[ConfigRecord] = []
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append(message.content.config_records["config"])
        return Message(honest(message, context), reply_to=message)

    config = ConfigRecord({"lr": 0.5})
    strategy_with(Recorder()).start(
        InlineGrid(app, 2, {}), to_record(MODEL), 2, train_config=config
    )
    assert [(c["lr"], c["server-round"]) for c in seen] == [(0.5, 1), (0.5, 1), (0.5, 2), (0.5, 2)]
    assert dict(config) == {"lr": 0.5}


def test_nodes_that_never_come_are_an_error_with_a_limit() -> None:
    strategy = strategy_with(Recorder(), rule=Median(), min_available_nodes=11, wait_for_nodes=0.0)
    with pytest.raises(CohortError, match=r"min_available_nodes=11 .* found 10"):
        run(strategy)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Communication\.deadline must be in \(0, .*\], found 0"):
        Communication(deadline=0)
    with pytest.raises(ConfigError, match=r"Aggregation\.quorum must be >= 0, found -1"):
        Aggregation(quorum=-1)
    with pytest.raises(ConfigError, match=r"Participation\.fraction_evaluate .* \[0, 1\], found 2"):
        Participation(fraction_evaluate=2)


def test_an_option_outside_its_group_is_named() -> None:
    for build in (HQDEStrategy, byzantine_filter):
        with pytest.raises(TypeError, match="unexpected keyword argument 'codec'"):
            build(codec=Identity())  # type: ignore[call-arg,operator]


def test_a_rule_alone_is_short_for_its_group() -> None:
    assert HQDEStrategy(Krum(f=2)).settings == HQDEStrategy(Aggregation(Krum(f=2))).settings


def test_a_tree_of_weighted_means_is_fedavg() -> None:
    tree = run(presets.hierarchical(fanout=3, participation=NO_EVALUATION))
    flat = run(presets.fedavg(participation=NO_EVALUATION))
    for name, tensor in flat.items():
        torch.testing.assert_close(tree[name], tensor, rtol=1e-6, atol=1e-6)


def test_a_tree_too_small_for_its_rule_keeps_the_model_and_says_so() -> None:
    recorder = Recorder()
    rule = Tree(TrimmedMean(f=2), Median(), fanout=5)
    run_void(strategy_with(recorder, rule=rule), rounds=1, partitions=6)
    note = recorder.rounds[1].note
    assert note is not None
    assert "needs at least" in note


class Keeper(Recorder):
    """Keeps the server's state of every round."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[ServerState] = []

    def on_state(self, state: ServerState, record: RoundRecord) -> None:
        assert record is self.rounds[-1]
        self.states.append(state)


def test_a_run_that_goes_on_from_a_state_ends_with_the_same_bits() -> None:
    options = {"rule": ByzantineFilter(), "server_optimizer": SGD(momentum=0.5), "seed": 5}
    options["selector"] = Uniform(fraction=0.5)
    keeper, rest = Keeper(), Keeper()
    whole = run(strategy_with(keeper, **options), rounds=4)
    assert [state.round for state in keeper.states] == [0, 1, 2, 3, 4]
    again = strategy_with(rest, **options).start(
        federation(None), to_record(MODEL), 4, resume=keeper.states[2]
    )
    resumed = from_record(again.arrays)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert [record.round for record in rest.rounds] == [3, 4]
    assert [c.influence for c in rest.rounds[-1].clients] == [
        c.influence for c in keeper.rounds[-1].clients
    ]


def even(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Pack the updates of clients with an even partition; the others are stock clients."""
    if int(context.node_config["partition-id"]) % 2:
        return call_next(message, context)
    return CodecMod()(message, context, call_next)


def test_packed_and_plain_clients_mix_in_one_round() -> None:
    recorder = Recorder()
    strategy = strategy_with(recorder, codec=Quantized(8, unbiased=False))
    mixed = strategy.start(federation(None, mods=[even]), to_record(MODEL), 2)
    plain = run(strategy_with(Recorder()))
    assert recorder.rounds[2].kept == 10
    sizes = [recorder.client(partition).bytes_up for partition in range(10)]
    assert min(sizes[1::2]) > max(sizes[::2])
    state = from_record(mixed.arrays)
    for name, tensor in plain.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-3, rtol=0)
    assert int(state["steps"]) == 5


def test_identity_asks_for_nothing_and_changes_nothing() -> None:
    grid = federation(None, mods=[CodecMod(Identity())])
    exact = strategy_with(Recorder()).start(grid, to_record(MODEL), 2).arrays
    plain = strategy_with(Recorder()).start(federation(None), to_record(MODEL), 2).arrays
    assert all(torch.equal(a, from_record(plain)[name]) for name, a in from_record(exact).items())


def test_a_client_that_lost_its_error_feedback_is_named_and_counted() -> None:
    """A restarted node has an empty context. A client that never had a residual has lost none."""
    recorder = Recorder()

    def forgetful(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if context.node_config["partition-id"] == HOSTILE and message.metadata.group_id == "3":
            context.state.clear()
        return call_next(message, context)

    codec = ErrorFeedback(Quantized(4, unbiased=False))
    strategy = strategy_with(recorder, codec=codec)
    strategy.start(federation(None, mods=[forgetful, even]), to_record(MODEL), 4)
    assert [record.feedback_lost for record in recorder.rounds] == [0, 0, 0, 1, 0]
    assert [c.partition for c in recorder.rounds[3].clients if c.feedback_lost] == [HOSTILE]
    assert strategy.state is not None
    since = {client: 3 if client == HOSTILE else 1 for client in (0, 2, 4, 6, 8)}
    assert strategy.state.feedback == {(client, 0): number for client, number in since.items()}


# --- stopping early -------------------------------------------------------------------------------


def test_a_run_that_is_told_to_stop_ends_after_that_round() -> None:
    events: list[object] = []

    class Listener(Recorder):
        def on_state(self, state: ServerState, record: RoundRecord) -> None:
            events.append(("state", record.round))

        def on_end(self, arrays: ArrayRecord) -> None:
            events.append("end")

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"round": float(server_round)})

    def should_stop(server_round: int, result: Result) -> bool:
        assert result.evaluate_metrics_serverapp[server_round]["round"] == server_round
        events.append(("stop?", server_round))
        return server_round == 2

    stopped = strategy_with(Listener()).start(
        federation(None), to_record(MODEL), 5, evaluate_fn=evaluate, should_stop=should_stop
    )
    expected = [("state", 0), ("state", 1), ("stop?", 1), ("state", 2), ("stop?", 2), "end"]
    assert events == expected
    assert sorted(stopped.train_metrics_clientapp) == [1, 2]
    whole = run(strategy_with(Recorder()), rounds=2)
    assert all(torch.equal(whole[k], v) for k, v in from_record(stopped.arrays).items())


def test_a_run_that_is_stopped_before_it_has_an_aggregate_has_failed() -> None:
    recorder = Recorder()
    with pytest.raises(RunError, match="no round produced an aggregate"):
        strategy_with(recorder, quorum=10).start(
            federation(crash), to_record(MODEL), 5, should_stop=lambda number, result: number == 2
        )
    assert [record.round for record in recorder.rounds] == [0, 1, 2]


def test_aggregation_without_a_round_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="round 1 needs configure_train to be called first"):
        strategy_with(Recorder()).aggregate_train(1, [])


def test_replies_to_another_round_than_the_one_that_was_configured_are_an_error() -> None:
    strategy, grid = strategy_with(Recorder()), federation(None)
    strategy.configure_train(1, to_record(MODEL), ConfigRecord(), grid)
    with pytest.raises(RuntimeError, match="round 2 needs configure_train to be called first"):
        strategy.aggregate_train(2, [])


def test_clients_evaluate_without_a_round_before() -> None:
    """As in a program that evaluates the model of a state it has kept."""
    strategy, grid = strategy_with(Recorder(), fraction_evaluate=1.0), federation(None)
    assert strategy.aggregate_evaluate(1, []) is None
    strategy.state = ServerState.of(to_record(MODEL), 1)
    messages = strategy.configure_evaluate(3, to_record(MODEL), ConfigRecord(), grid)
    assert len(messages) == 10
    assert {m.content.config_records["config"]["server-round"] for m in messages} == {3}
    assert strategy.aggregate_evaluate(3, grid.send_and_receive(messages)) is not None


def test_evaluation_can_be_switched_off_later() -> None:
    strategy, grid = strategy_with(Recorder(), fraction_evaluate=1.0), federation(None)
    strategy.state = ServerState.of(to_record(MODEL), 1)
    strategy.fraction_evaluate = 0.0
    assert strategy.configure_evaluate(1, to_record(MODEL), ConfigRecord(), grid) == []
    assert strategy.aggregate_evaluate(1, []) is None
