"""Tests of colluding clients: the replies that the server receives and the damage to its model."""

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.faults import (
    FAULTS,
    Backdoor,
    Crash,
    FaultPlan,
    FaultSchedule,
    NaN,
    SignFlip,
    attack_success,
    choose_faulty_clients,
    only_for,
)
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.training import Training
from hqde_fl.codec import Quantized
from hqde_fl.codec.request import to_json
from hqde_fl.protocol.packed_updates import DELTA
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.protocol.screening import Screening
from hqde_fl.rules import CenteredClipping, Mean, Median
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks import ALIE, ATTACKS, IPM, Attack, Fang, Mimic
from hqde_fl.simulations.attacks.attack_grid import AttackGrid
from hqde_fl.simulations.attacks.round_updates import RoundUpdates, sent_model_of
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.server_app import evaluation
from hqde_fl.simulations.tasks import load_task
from hqde_fl.strategies.callbacks import Callback
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Participation, Reporting

N, F, SEED = 10, 3, 3
TASK = load_task({"name": "digits"}, {"name": "dirichlet", "alpha": 0.5}, N, SEED)
STATE = initial_state(TASK, 1, Seeds(SEED))
CHOSEN = choose_faulty_clients([F], N, Seeds(SEED))[0]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Use one thread: the model is too small to divide."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inline(*mods, members=1, partitions=N):
    app = ensemble_app(TASK, members=members, training=Training(lr=0.2), seed=SEED, mods=mods)
    return InlineGrid(app, partitions, {}, SEED)


def ask(grid, number=1, state=None, kind="train", nodes=None):
    content = RecordDict(
        {
            "arrays": to_record(STATE if state is None else state),
            "config": ConfigRecord({"server-round": number}),
        }
    )
    return [Message(content, node, kind) for node in nodes or grid.get_node_ids()]


def replies_of(grid, inner, **options):
    """Return partition id -> reply."""
    messages = ask(grid, **options)
    replies = list(grid.send_and_receive(messages))
    nodes = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    return {inner.partition_of(nodes[r.metadata.reply_to_message_id]): r for r in replies}


def delta_of(reply, state=None):
    layout = layout_of(to_record(STATE if state is None else state))
    sent, _ = layout.flatten(from_record(reply.content["arrays"]))
    return sent - layout.flatten(STATE if state is None else state)[0]


def without_seconds(reply):
    metrics = dict(reply.content["metrics"])
    metrics.pop("train-seconds")
    return metrics


class Spy(Attack):
    """An attack that records its arguments and sends ones, or different rows for the attackers."""

    def __init__(self, rows=False):
        self.seen, self.rows = [], rows

    def forge(self, honest, f, knowledge):
        self.seen.append((honest, f, knowledge))
        ones = torch.ones(honest.shape[1])
        return torch.arange(1.0, f + 1)[:, None] * ones if self.rows else ones

    def learn(self, honest, knowledge):
        return {"rounds": knowledge.memory.get("rounds", 0) + 1}


def test_the_attackers_send_the_update_of_the_attack():
    honest = replies_of(inner := inline(), inner)
    inner = inline()
    attacked = replies_of(AttackGrid(inner, IPM(epsilon=2.0), CHOSEN), inner)
    assert sorted(attacked) == list(range(N))
    for partition in set(range(N)) - CHOSEN:
        assert attacked[partition].content["arrays"] == honest[partition].content["arrays"]
    mean = torch.stack([delta_of(honest[p]) for p in range(N) if p not in CHOSEN]).mean(dim=0)
    for partition in CHOSEN:
        torch.testing.assert_close(delta_of(attacked[partition]), -2 * mean, rtol=1e-4, atol=1e-6)
        assert without_seconds(attacked[partition]) == without_seconds(honest[partition])


def test_attackers_come_last_and_honest_replies_are_unchanged():
    inner = inline()
    replies = list(inner.send_and_receive(messages := ask(inner)))
    inner.send_and_receive = lambda sent, timeout=None: iter(replies)
    received = list(AttackGrid(inner, IPM(), CHOSEN).send_and_receive(messages))
    assert all(any(reply is honest for honest in replies) for reply in received[: N - F])
    for reply in received[N - F :]:
        original = next(
            honest
            for honest in replies
            if honest.metadata.reply_to_message_id == reply.metadata.reply_to_message_id
        )
        assert reply.metadata == original.metadata
        assert reply.content["arrays"] != original.content["arrays"]
        assert list(reply.content) == list(original.content)


def test_an_attack_knows_the_clients_and_the_rule():
    inner, spy = inline(), Spy()
    rule, state = Median(), {"0": {"x": 1}}
    grid = AttackGrid(inner, spy, CHOSEN, defence=lambda member: (rule, state))
    replies = replies_of(grid, inner)
    honest, f, knowledge = spy.seen[0]
    assert (honest.shape, f) == ((N - F, 4810), F)
    assert knowledge.attackers == tuple(sorted(CHOSEN))
    assert knowledge.honest == tuple(sorted(set(range(N)) - CHOSEN))
    assert all(
        torch.equal(row, delta_of(replies[partition]))
        for row, partition in zip(honest.tile(0, 4810), knowledge.honest, strict=True)
    )
    examples = {p: replies[p].content["metrics"]["num-examples"] for p in range(N)}
    assert knowledge.num_examples == examples
    assert (knowledge.rule, knowledge.state, knowledge.excluded) == (rule, state, 0)
    layout = layout_of(to_record(STATE))
    assert torch.equal(knowledge.model, layout.flatten(STATE)[0])


def test_attackers_may_send_different_updates():
    inner = inline()
    replies = replies_of(AttackGrid(inner, Spy(rows=True), CHOSEN), inner)
    for number, partition in enumerate(sorted(CHOSEN), 1):
        expected = torch.full((4810,), float(number))
        torch.testing.assert_close(delta_of(replies[partition]), expected)


def test_an_attacks_memory_is_kept_and_can_be_restored():
    inner, spy = inline(), Spy()
    grid = AttackGrid(inner, spy, CHOSEN)
    for number in (1, 2):
        replies_of(grid, inner, number=number)
    assert [knowledge.memory for _, _, knowledge in spy.seen] == [{"rounds": 1}, {"rounds": 2}]
    resumed = AttackGrid(inner, spy, CHOSEN)
    resumed.memory = grid.memory
    replies_of(resumed, inner, number=3)
    assert resumed.memory == {"rounds": 3}


@pytest.mark.parametrize("kind", ["evaluate", "query.identity"])
def test_other_messages_pass_unchanged(kind):
    inner, spy = inline(), Spy()
    expected = replies_of(inner, inner, kind=kind)
    replies = replies_of(AttackGrid(inner, spy, CHOSEN), inner, kind=kind)
    assert {p: r.content for p, r in replies.items()} == {p: r.content for p, r in expected.items()}
    assert spy.seen == []


def test_pushed_messages_pass_unchanged():
    inner, spy = inline(), Spy()
    grid = AttackGrid(inner, spy, CHOSEN)
    replies = grid.pull_messages(grid.push_messages(ask(grid)))
    assert len(list(replies)) == N
    assert spy.seen == []


def test_the_attackers_follow_a_plan():
    plan = FaultPlan(N, Seeds(1), (2,), (FaultSchedule(start=2, stop=3, resample=True),))
    inner, spy = inline(), Spy()
    grid = AttackGrid(inner, spy, plan.choice_of(0))
    for number in range(1, 5):
        replies_of(grid, inner, number=number)
    attackers = [frozenset(knowledge.attackers) for _, _, knowledge in spy.seen]
    assert attackers == [plan.faulty(2)[0], plan.faulty(3)[0]]
    assert attackers[0] != attackers[1]


def test_a_round_without_attackers_or_without_honest_clients_passes_unchanged():
    inner, spy = inline(), Spy()
    nodes = inner.get_node_ids()
    grid = AttackGrid(inner, spy, CHOSEN)
    for part in (set(range(N)) - CHOSEN, CHOSEN):
        replies = replies_of(grid, inner, nodes=[nodes[p] for p in part])
        assert sorted(replies) == sorted(part)
    assert spy.seen == []


def test_clients_that_fail_or_are_rejected_are_excluded_from_the_attack():
    failing, attacker = sorted(set(range(N)) - CHOSEN)[:2], min(CHOSEN)
    mods = [only_for(Crash(), {failing[0], attacker}), only_for(NaN(), {failing[1]})]
    inner, spy = inline(*mods), Spy()
    replies = replies_of(AttackGrid(inner, spy, CHOSEN), inner)
    _, f, knowledge = spy.seen[0]
    assert (f, knowledge.excluded) == (F - 1, 3)
    assert set(knowledge.honest) == set(range(N)) - CHOSEN - set(failing)
    assert replies[failing[0]].has_error()
    assert replies[attacker].has_error()


def test_late_replies_are_not_waited_for():
    inner, spy = inline(), Spy()

    class Impatient:
        def __getattr__(self, name):
            return getattr(inner, name)

        def send_and_receive(self, messages, *, timeout=None):
            assert timeout == 7.0
            yield from inner.send_and_receive(messages[:6])

    grid = AttackGrid(Impatient(), spy, {0, 7})
    assert len(list(grid.send_and_receive(ask(grid), timeout=7.0))) == 6
    assert spy.seen[0][2].honest == (1, 2, 3, 4, 5)


def test_a_strategy_may_stop_reading_replies_early():
    inner, closed = inline(), []

    def send_and_receive(messages, timeout=None):
        try:
            yield from InlineGrid.send_and_receive(inner, messages)
        finally:
            closed.append(True)

    inner.send_and_receive = send_and_receive
    replies = iter(AttackGrid(inner, Spy(), CHOSEN).send_and_receive(ask(inner)))
    next(replies)
    replies.close()
    assert closed == [True]


class Anonymous:
    """A grid that does not know the nodes' partitions."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        if name == "partition_of":
            raise AttributeError(name)
        return getattr(self._inner, name)


def test_partitions_are_known_if_the_inner_grid_knows_them():
    inner = inline()
    grid = AttackGrid(inner, IPM(), CHOSEN)
    assert [grid.partition_of(node) for node in grid.get_node_ids()] == list(range(N))
    assert grid.run is inner.run
    assert not hasattr(AttackGrid(Anonymous(inner), IPM(), CHOSEN), "partition_of")
    assert grid.create_message(RecordDict(), "train", 5, "1").metadata.dst_node_id == 5
    grid.set_run(inner.run)


def test_partitions_are_read_from_replies_to_the_identity_query():
    inner, spy = inline(), Spy()
    grid = AttackGrid(Anonymous(inner), spy, CHOSEN)
    replies_of(grid, inner)
    assert spy.seen == []
    replies_of(grid, inner, kind="query.identity")
    replies_of(grid, inner)
    assert spy.seen[0][2].attackers == tuple(sorted(CHOSEN))


def test_full_weights_keep_dtypes_and_the_clients_other_entries():
    state = {
        "w": torch.tensor([1.0, 2.0]).to(torch.bfloat16),
        "n": torch.tensor(7),
        "b": torch.tensor([[0.5], [0.25]]),
    }
    inline()  # makes messages possible in this process
    message = Message(RecordDict({"model": to_record(state)}), 1, "train")
    updates = RoundUpdates.of(message, sent_model_of(message), Seeds(0), Screening())
    answer = Message(
        RecordDict({"model": to_record({**state, "n": torch.tensor(9)})}), reply_to=message
    )
    written = from_record(
        updates.write(answer, 0, torch.tensor([1.0, -1.0, 0.5, 0.25])).content["model"]
    )
    assert {name: tensor.dtype for name, tensor in written.items()} == {
        name: tensor.dtype for name, tensor in state.items()
    }
    assert written["w"].tolist() == [2, 1]
    assert written["b"].tolist() == [[1.0], [0.5]]
    assert written["n"] == 9
    assert from_record(answer.content["model"])["w"].tolist() == [1, 2]


def test_packed_updates_are_decoded_as_by_the_server_and_packed_again():
    inner, spy, codec = inline(), Spy(), Quantized(6)
    grid = AttackGrid(inner, spy, CHOSEN, seed=5)
    messages = ask(inner)
    messages[0].content["config"]["codec"] = to_json(codec)  # one content for all
    replies = list(grid.send_and_receive(messages))
    sent = sent_model_of(messages[0])
    updates = RoundUpdates.of(messages[0], sent, Seeds(5), Screening())
    assert updates.codec == codec
    assert all(DELTA in reply.content["arrays"] for reply in replies)
    honest, _, _ = spy.seen[0]
    decoded = {tuple(updates.read(reply).delta.tolist()) for reply in replies[: N - F]}
    assert decoded == {tuple(row.tolist()) for row in honest.rows}
    for reply in replies[N - F :]:
        delta = updates.read(reply).delta
        torch.testing.assert_close(delta, torch.ones(4810), rtol=0.1, atol=0.1)
    huge = updates.write(replies[-1], 0, torch.full((4810,), 1e37))
    assert DELTA not in huge.content["arrays"]


class Recorder(Callback):
    def __init__(self):
        self.records = []

    def on_round(self, record, arrays):
        self.records.append(record)


def federated(attack=None, *, rule=None, rounds=10, mods=(), plan=CHOSEN, members=1):
    """Return the final model's accuracy and loss, the round records, and the final arrays."""
    recorder = Recorder()
    strategy = HQDEStrategy(
        rule or Mean(),
        participation=Participation(fraction_evaluate=0.0, identify=True),
        reporting=Reporting([recorder]),
        seed=SEED,
    )
    grid = inline(*mods, members=members)
    if attack is not None:
        defence = lambda member: (strategy.settings.aggregation.rule, strategy.state.models[0].rule)  # noqa: E731
        grid = AttackGrid(grid, attack, plan, defence=defence)
    state = initial_state(TASK, members, Seeds(SEED))
    result = strategy.start(grid, to_record(state), rounds, evaluate_fn=evaluation(TASK, members))
    final = result.evaluate_metrics_serverapp[rounds]
    return final["accuracy"], final["loss"], recorder.records, result.arrays


@pytest.fixture(scope="module")
def baselines():
    """Return (accuracy, loss) without attackers, and with the attackers crashed."""
    return federated()[:2], federated(mods=[only_for(Crash(), CHOSEN)])[:2]


GENTLE = ("sideways",)
"""Attacks that move the model without a loss of accuracy in so few rounds."""


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in GENTLE])
def test_every_attack_hurts_the_plain_mean(name, baselines):
    (clean, _), (_, honest_loss) = baselines
    accuracy, loss, _, _ = federated(ATTACKS.build(name))
    assert accuracy < clean - 0.05
    assert loss > 1.02 * honest_loss


HARMFUL = ["free-ride", "gaussian", "label-flip", "scaling", "sign-flip", "stale", "zero"]
"""The local faults whose harmful updates pass screening."""


@pytest.mark.parametrize("name", HARMFUL)
def test_every_fault_that_is_not_screened_out_hurts_the_plain_mean(name, baselines):
    (clean, _), (_, honest_loss) = baselines
    accuracy, loss, records, _ = federated(mods=[only_for(FAULTS.build(name), CHOSEN, SEED)])
    assert records[-1].rejected == 0
    assert accuracy < clean - 0.05
    assert loss > 1.02 * honest_loss


def test_a_false_number_of_examples_hurts_the_weighted_mean(baselines):
    (clean, clean_loss), _ = baselines
    mods = [only_for(FAULTS.build("num-examples"), [min(CHOSEN)])]
    rule = Mean(weighted=True, cap=float("inf"))
    accuracy, loss, _, _ = federated(rule=rule, mods=mods)
    assert accuracy < clean - 0.05
    assert loss > 1.02 * clean_loss


def test_a_backdoor_enters_the_plain_mean_and_keeps_its_accuracy():
    backdoor = Backdoor(target=2, size=2)
    accuracy, _, _, poisoned = federated(mods=[only_for(backdoor, CHOSEN, SEED)])
    clean, _, _, honest = federated()
    assert accuracy > clean - 0.1
    success = [
        attack_success([model_of(arrays)], TASK.test(), TASK, backdoor)
        for arrays in (poisoned, honest)
    ]
    assert success[0] > 0.9
    assert success[1] < 0.1


def model_of(arrays):
    model = TASK.model()
    model.load_state_dict(from_record(arrays))
    return model


def test_a_run_under_attack_is_reproducible_and_the_server_sees_full_replies():
    one, other = federated(Mimic(), rounds=2), federated(Mimic(), rounds=2)
    assert one[3] == other[3]
    assert one[2][1].kept == N
    assert {client.bytes_up for client in one[2][1].clients} == {
        client.bytes_up for client in other[2][1].clients
    }


def test_an_attack_knows_the_state_of_the_rule():
    spy, rule = Spy(), CenteredClipping()
    federated(spy, rule=rule, rounds=2)
    (_, _, first), (_, _, second) = spy.seen
    assert first.rule is second.rule is rule
    assert first.state == {}
    delta = second.model - first.model  # the rule's result, which is its next centre
    torch.testing.assert_close(second.state["0"]["centre"], delta)


def test_several_members_are_attacked_together():
    _, _, records, arrays = federated(ALIE(z=1.5), rounds=1, members=2)
    assert records[1].kept == N
    assert {name.partition("/")[0] for name in arrays} == {"member-0", "member-1"}


def test_colluding_and_local_faults_in_one_run():
    plan = FaultPlan(
        N, Seeds(SEED), (1, 2, 2), (FaultSchedule(), FaultSchedule(), FaultSchedule(start=2))
    )
    mods = [only_for(NaN(), plan.choice_of(0)), only_for(SignFlip(), plan.choice_of(1))]
    _, _, records, _ = federated(Fang(), rounds=2, mods=mods, plan=plan.choice_of(2))
    assert [record.rejected for record in records[1:]] == [1, 1]
    assert records[2].kept == N - 1
