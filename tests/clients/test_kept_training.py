"""Steps instead of passes, and optimisers that clients keep, against plain loops."""

import copy
from types import SimpleNamespace

import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.batch_iteration import shuffled_order
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.kept_training import OPTIMIZER
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training, train
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.privacy.example_level import DPSGD
from hqde_fl.protocol.records import from_record
from hqde_fl.schedules import Cosine, Step
from hqde_fl.seeding import Seeds

BETA, LR, SIZE = 0.9, 0.2, 4


def linear() -> nn.Module:
    return nn.Linear(4, 3).double()


def examples(number, count, size=21):
    generator = torch.Generator().manual_seed(1000 * count + number)
    x = torch.randn(size, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.arange(size) % 3)


@pytest.fixture
def plain():
    """Return a task whose training draws nothing at random but the order of the examples."""
    return Task(model=linear, partition=examples)


@pytest.fixture
def play(ask, node):
    """Return a function that trains one client in several rounds, each from a given model."""

    def rounds(task, training, starts, context=None, members=1):
        app, context = ensemble_app(task, training=training, members=members), context or node()
        replies = [app(ask(start, number), context) for number, start in starts]
        return [from_record(reply.content["arrays"]) for reply in replies], context

    return rounds


def batches_of(data, rounds, steps):
    """Return the batches of each round, read by a plain loop over passes in seeded order."""
    seeds, place, number, read = Seeds(0), 0, 0, []
    order = shuffled_order(len(data), SIZE, seeds.torch("pass", 0, 0, 0))
    for _ in range(rounds):
        own = []
        for _ in range(steps):
            if place >= len(order):
                number, place = number + 1, 0
                order = shuffled_order(len(data), SIZE, seeds.torch("pass", 0, 0, number))
            indices = order[place : place + SIZE]
            own.append([tensor[indices] for tensor in data.tensors])
            place += SIZE
        read.append(own)
    return read


def gradient(state, x, y):
    model = linear()
    model.load_state_dict(state)
    cross_entropy(model(x), y).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_dsgd_with_kept_momentum_is_the_plain_loop_in_which_clients_send_their_momentum(
    plain, play, node
):
    """x <- x - lr m with m = beta m + (1 - beta) g, where the server applies lr to -m."""
    training = Training(
        steps=1, batch_size=SIZE, lr=1.0, momentum=BETA, dampening=BETA, keep_optimizer=True
    )
    data, rounds, context = examples(0, 3), 8, node()
    x = initial_state(plain, 1, Seeds(0))
    expected = {name: value.clone() for name, value in x.items()}
    m = {name: torch.zeros_like(value) for name, value in x.items()}
    for number, ((batch,),) in enumerate(zip(batches_of(data, rounds, 1), strict=True), 1):
        g = gradient(expected, *batch)
        m = {name: BETA * m[name] + (1 - BETA) * g[name] for name in m}
        expected = {name: expected[name] - LR * m[name] for name in m}
        (trained,), _ = play(plain, training, [(number, x)], context)
        x = {name: x[name] + LR * (trained[name] - x[name]) for name in x}
    for name in x:
        torch.testing.assert_close(x[name], expected[name], rtol=1e-12, atol=1e-12)


def test_a_round_goes_on_with_the_batch_after_the_last_one_where_the_optimizer_is_kept(plain, play):
    training = Training(steps=4, batch_size=SIZE, lr=LR, keep_optimizer=True)
    start = initial_state(plain, 1, Seeds(0))
    states, _ = play(plain, training, [(1, start), (5, start), (6, start)])
    for state, batches in zip(states, batches_of(examples(0, 3), 3, 4), strict=True):
        expected = start
        for batch in batches:
            g = gradient(expected, *batch)
            expected = {name: expected[name] - LR * g[name] for name in g}
        for name in state:
            torch.testing.assert_close(state[name], expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "keys",
    [
        {"momentum": 0.9},
        {"optimizer": "adam", "lr": 0.01},
        {"optimizer": "adamw", "lr": 0.01, "steps": 2},
    ],
    ids=["momentum", "adam", "adamw"],
)
def test_a_kept_optimizer_is_one_optimizer_over_all_rounds(task, ask, node, state, same, keys):
    """A copy of the client's state goes on to the bit, in another process's app too."""
    training = Training(batch_size=SIZE, keep_optimizer=True, **keys)
    app, context, copied = ensemble_app(task, training=training), node(), node()
    for number in (1, 2, 4):
        first = from_record(app(ask(state, number), context).content["arrays"])
        other = ensemble_app(task, training=training)
        second = from_record(other(ask(state, number), copied).content["arrays"])
        assert same(first, second)
        copied.state = RecordDict(copy.deepcopy(dict(context.state)))
    fresh = from_record(app(ask(state, 4), node()).content["arrays"])
    assert not same(first, fresh)  # without what was kept


def test_members_keep_their_own_and_one_that_misses_a_round_keeps_what_it_had(plain, ask, node):
    training = Training(steps=1, batch_size=SIZE, momentum=BETA, keep_optimizer=True)
    app, context = ensemble_app(plain, members=2, training=training), node()
    state = initial_state(plain, 2, Seeds(0))

    def kept(member):
        record = context.state.array_records[OPTIMIZER]
        return {n: a.data for n, a in record.items() if n.startswith(f"member-{member}/")}

    app(ask(state, 1), context)
    before = kept(0), kept(1)
    assert before[0] != before[1]
    message = ask({n: v for n, v in state.items() if n.startswith("member-1/")}, 2)
    message.content["config"]["members"] = [1]
    app(message, context)
    assert kept(0) == before[0]
    assert kept(1) != before[1]


def test_a_training_that_fails_changes_nothing_that_is_kept(plain, ask, node):
    calls = SimpleNamespace(fail=False)

    def loss(outputs, targets):
        if calls.fail:
            raise RuntimeError("no loss")
        return cross_entropy(outputs, targets)

    task = Task(model=linear, partition=examples, loss=loss)
    app = ensemble_app(task, training=Training(steps=2, momentum=BETA, keep_optimizer=True))
    context, state = node(), initial_state(task, 1, Seeds(0))
    app(ask(state, 1), context)
    before = {name: array.data for name, array in context.state[OPTIMIZER].items()}
    calls.fail = True
    with pytest.raises(TaskError, match="no loss"):
        app(ask(state, 2), context)
    assert {name: array.data for name, array in context.state[OPTIMIZER].items()} == before


def test_what_was_kept_of_another_model_is_an_error_that_names_the_weight(plain, ask, node):
    training = Training(steps=1, momentum=BETA, keep_optimizer=True)
    app, context = ensemble_app(plain, training=training), node()
    state = initial_state(plain, 1, Seeds(0))
    app(ask(state, 1), context)
    record = context.state[OPTIMIZER]
    renamed = {name.replace("weight", "other"): array for name, array in record.items()}
    context.state[OPTIMIZER] = ArrayRecord(renamed)
    with pytest.raises(TaskError, match=r"'other'.*same model in every round"):
        app(ask(state, 2), context)


def test_steps_without_a_kept_optimizer_begin_a_new_pass_and_take_as_many_as_they_are_told(
    plain,
):
    data, seen = examples(0, 3, 9), []

    class Read(TensorDataset):
        def __getitem__(self, index):
            seen.append(int(index))
            return super().__getitem__(index)

    training = Training(steps=5, batch_size=3)
    generator = torch.Generator().manual_seed(1)
    train(linear(), Read(*data.tensors), plain, training, generator)
    assert len(seen) == 15
    assert sorted(seen[:9]) == list(range(9))
    assert len(set(seen[9:])) == 6


@pytest.mark.parametrize(("steps", "work", "part"), [(1, 0.3, 1.0), (4, 0.5, 0.5), (3, 0.7, 1.0)])
def test_part_of_the_steps_is_whole_steps_and_all_of_them_is_no_part(steps, work, part):
    assert Training(steps=steps).part_done(work) == part


def test_the_gradient_of_a_batch_is_clipped_over_all_weights(plain):
    model, data = linear(), examples(0, 3)
    before = copy.deepcopy(model.state_dict())
    training = Training(steps=1, lr=1.0, clip_grad_norm=0.01)
    train(model, data, plain, training, torch.Generator().manual_seed(0))
    moved = [(model.state_dict()[name] - value).flatten() for name, value in before.items()]
    assert float(torch.cat(moved).norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_schedule_sets_the_learning_rate_of_the_round(plain, play):
    start = initial_state(plain, 1, Seeds(0))
    training = Training(steps=1, lr=LR, keep_optimizer=True, lr_schedule=Step(every=1, gamma=0.5))
    fixed = Training(steps=1, lr=LR / 4, keep_optimizer=True)
    (scheduled,), _ = play(plain, training, [(3, start)])
    (expected,), _ = play(plain, fixed, [(3, start)])
    for name in start:
        assert torch.equal(scheduled[name], expected[name])


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"steps": -1}, "steps must be >= 0, found -1"),
        ({"steps": 2, "epochs": 3}, "found steps = 2 and epochs = 3"),
        ({"dampening": 0.5}, "dampening is for momentum > 0"),
        ({"momentum": 0.5, "dampening": 1.5}, r"dampening must be in \[0, 1\], found 1.5"),
        ({"clip_grad_norm": -1.0}, "clip_grad_norm must be finite and >= 0"),
        (
            {"clip_grad_norm": 1.0, "dp_sgd": DPSGD(noise_multiplier=1.0)},
            "clip_grad_norm must be 0 with dp_sgd",
        ),
        ({"control_variates": True, "momentum": 0.9}, "plain SGD.*found momentum = 0.9"),
        ({"control_variates": True, "optimizer": "adam"}, "found optimizer 'adam'"),
        ({"control_variates": True, "proximal_mu": 1.0}, "found proximal_mu"),
    ],
)
def test_settings_that_cannot_be_are_refused(keys, text):
    with pytest.raises(ConfigError, match=text):
        Training(**keys)


def test_a_schedule_keeps_the_rate_of_its_round():
    assert Training(lr=0.1).rate(7) == 0.1
    assert Training(lr=0.1, lr_schedule=Cosine(rounds=4)).rate(1) == pytest.approx(0.1)
