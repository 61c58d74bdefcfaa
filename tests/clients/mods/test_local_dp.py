"""Local differential privacy: nothing leaves a client but updates with noise."""

from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.clients.mods.local_dp import LocalDPMod
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.codec import ErrorFeedback, Quantized
from hqde_fl.privacy import SeededGaussian
from hqde_fl.privacy.local import LocalDP
from hqde_fl.protocol.example_counts import counted_examples
from hqde_fl.protocol.members import add_member_prefix
from hqde_fl.protocol.message_roles import role_config
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.updates.roles import roles_of

SEEDED = LocalDP(8.0, clipping_norm=0.5, noise=SeededGaussian())
LIKE_SILENCE = LocalDP(1e5, clipping_norm=1e-3, noise=SeededGaussian())
"""Hardly any noise, so that the update itself can be seen."""


@pytest.fixture
def flat(weights, weight_names):
    """Return a function that reads a reply's weights as one float64 vector."""
    return lambda reply: torch.cat([weights(reply)[n].double().flatten() for n in weight_names])


@pytest.fixture
def start(state, weight_names):
    return torch.cat([state[name].double().flatten() for name in weight_names])


def test_updates_are_clipped(train, flat, start):
    update = flat(train(LocalDPMod(LIKE_SILENCE))) - start
    assert float(update.norm()) == pytest.approx(1e-3, rel=0.2)
    plain = flat(train()) - start
    assert float(plain.norm()) > 0.01
    cosine = float(update @ plain / update.norm() / plain.norm())
    assert cosine > 0.95


def test_the_noise_has_the_deviation_of_the_analytic_gaussian(train, flat, start):
    settings = replace(SEEDED, clipping_norm=0.1)
    updates = [
        flat(train(LocalDPMod(settings, seed), number=number)) - start
        for seed in (1, 2)
        for number in (1, 2, 3)
    ]
    noise = torch.cat(updates)
    assert float(noise.std()) == pytest.approx(settings.deviation, rel=0.15)
    assert not torch.equal(updates[0], updates[1])
    assert not torch.equal(updates[0], updates[3])


def test_the_same_seed_gives_the_same_reply_and_secure_noise_does_not(train, flat):
    assert torch.equal(flat(train(LocalDPMod(SEEDED))), flat(train(LocalDPMod(SEEDED))))
    secure = LocalDPMod(LocalDP(8.0))
    assert not torch.equal(flat(train(secure)), flat(train(secure)))


def test_nothing_but_weights_is_of_the_client(train, state, weights, weight_names):
    """Statistics and counters go back as they came, and no metric tells of the data."""
    reply = train(LocalDPMod(SEEDED))
    for name, tensor in weights(reply).items():
        assert torch.equal(tensor, state[name]) is (name not in weight_names), name
    assert set(reply.content["metrics"]) == {"num-examples", "epsilon"}
    assert reply.content["metrics"]["num-examples"] == 1
    assert list(reply.content) == ["arrays", "metrics"]


def test_updates_of_a_client_are_counted(train, node):
    context, settings = node(), LocalDP(2.0, max_epsilon=4.0)
    spent = []
    for number in (1, 2, 3, 4, 5):
        reply = train(LocalDPMod(settings), number=number, context=context)
        if reply.has_error():
            break
        spent.append(reply.content["metrics"]["epsilon"])
    assert spent == pytest.approx([settings.composed_epsilon(k) for k in (1, 2, 3)], rel=1e-9)
    assert reply.has_error()
    assert "4 updates need epsilon 4.3" in reply.error.reason
    assert "max-epsilon is 4" in reply.error.reason


def test_a_reply_is_counted_even_if_the_same_round_is_asked_again(train, node):
    context, settings = node(), LocalDP(2.0)
    replies = [train(LocalDPMod(settings), number=1, context=context) for _ in range(2)]
    assert replies[1].content["metrics"]["epsilon"] == settings.composed_epsilon(2)


@pytest.mark.parametrize("kind", ["evaluate", "query.examples"])
def test_other_questions_tell_nothing_of_the_data(task, ask, node, state, kind):
    reply = ensemble_app(task, mods=[LocalDPMod(SEEDED)])(ask(state, 1, kind), node())
    if kind == "evaluate":
        assert "no evaluation on a client's data" in reply.error.reason
    else:
        assert counted_examples(reply) == 1


def test_the_identity_is_told(task, ask, node, state):
    reply = ensemble_app(task, mods=[LocalDPMod(SEEDED)])(ask(state, 1, "query.identity"), node(2))
    assert reply.content["identity"]["partition-id"] == 2


@pytest.mark.parametrize("members", [1, 2])
def test_a_client_without_data_sends_noise(task, ask, node, members):
    empty = replace(task, partition=lambda number, count: TensorDataset(torch.zeros(0, 4)))
    state = initial_state(empty, members, Seeds(0))
    app = ensemble_app(empty, members=members, mods=[LocalDPMod(SEEDED)])
    context = node()
    reply = app(ask(state), context)
    assert not reply.has_error()
    assert set(reply.content["arrays"]) == set(state)
    assert reply.content["metrics"]["epsilon"] == SEEDED.composed_epsilon(1)


def test_members_of_a_message_share_one_clipping(task, ask, node):
    state = initial_state(task, 3, Seeds(0))
    question = ask(state)
    config = {"members": [0, 2], "server-round": 1}
    for member in (0, 2):
        config |= add_member_prefix(member, {"tag": 40 + member})
    question.content["config"] = ConfigRecord(config)
    app = ensemble_app(task, members=3, training=Training(lr=0.1), mods=[LocalDPMod(LIKE_SILENCE)])
    reply = app(question, node())

    sent = from_record(reply.content["arrays"])
    assert {name.partition("/")[0] for name in sent} == {"member-0", "member-2"}
    squares = sum(
        float((sent[name].double() - state[name].double()).square().sum()) for name in sent
    )
    assert squares**0.5 == pytest.approx(1e-3, rel=0.3)
    assert {**reply.content["hqde.members"]} == {"member-0/tag": 40, "member-2/tag": 42}


def test_an_update_that_is_not_finite_counts_as_zero(task, ask, node, state, weights):
    def broken(message, context, call_next):
        reply = call_next(message, context)

        arrays = from_record(reply.content["arrays"])
        reply.content["arrays"] = to_record({n: t / 0 for n, t in arrays.items()})
        return reply

    app = ensemble_app(task, mods=[LocalDPMod(SEEDED), broken])
    sent = weights(app(ask(state), node()))
    assert all(tensor.isfinite().all() for tensor in sent.values())


def test_error_feedback_sees_the_noised_update_alone(train, node, weights, weight_names, state):
    """What a codec remembers is the difference of two things that were or will be sent."""
    context = node()
    codec = ErrorFeedback(Quantized(4, unbiased=False))
    mods = [CodecMod(codec), LocalDPMod(SEEDED)]
    train(*mods, context=context)
    residual = weights_of(context)
    noised = train(LocalDPMod(SEEDED))  # the same noise, as it is seeded
    sent = torch.cat([(weights(noised)[n] - state[n]).flatten() for n in weight_names])
    assert 0 < float(residual.norm()) < float(sent.norm())


def weights_of(context):
    """Return the residual in a client's state."""

    (record,) = (r for n, r in context.state.array_records.items() if n.endswith(".memory"))
    return from_record(record)["residual"]


def test_any_model_of_the_federation(ask, node):
    """Half precision, complex weights, frozen and tied ones."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.two = nn.Linear(4, 3)
            self.two.weight.requires_grad_(False)
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))

        def forward(self, x):
            return (self.two(self.one(x)) * self.phase).real

    data = TensorDataset(torch.randn(12, 4), torch.arange(12) % 3)
    task = Task(model=Odd, partition=lambda number, count: data, test=lambda: data)
    state = initial_state(task, 1, Seeds(0))
    question = ask(state)
    layout = layout_of(to_record(state), roles_of(Odd()))
    question.content["config"] = ConfigRecord({"server-round": 1, **role_config(layout)})
    reply = ensemble_app(task, mods=[LocalDPMod(SEEDED)])(question, node())
    sent = from_record(reply.content["arrays"])
    assert torch.equal(sent["two.weight"], state["two.weight"])
    assert (sent["phase"] - state["phase"]).imag.abs().min() > 0
    assert not torch.equal(sent["one.weight"], state["one.weight"])
