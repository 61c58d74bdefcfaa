"""Tests of clients that train only the members assigned to them."""

from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.training import Training
from hqde_fl.codec import ErrorFeedback, Quantized
from hqde_fl.codec.request import to_json
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.delta_broadcast import HELD
from hqde_fl.protocol.members import TAGS, add_member_prefix
from hqde_fl.protocol.packed_updates import DELTA
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.clients_model import Broadcast
from hqde_fl.strategies.round.outgoing import contents
from hqde_fl.strategies.state import ServerState

M, SEED = 4, 5
TRAINING = Training(epochs=1, batch_size=4, lr=0.1)
FEEDBACK = to_json(ErrorFeedback(Quantized(2, unbiased=False)))


@pytest.fixture
def state(task):
    return ServerState.of(to_record(initial_state(task, M, Seeds(SEED))), M)


@pytest.fixture
def assign(ask, state):
    """Return a function that builds a training message to node 1 with some members."""
    ask(initial_state_of(state))  # this fixture makes messages possible in this process

    def build(*members, number=1, models=None, **config):
        tags = {member: 1000 + member for member in members}
        config = ConfigRecord({"server-round": number, **config})
        ((arrays, config),) = contents(models or state.models, {1: members}, config, tags)
        return Message(RecordDict({"arrays": arrays, "config": config}), 1, "train")

    return build


def initial_state_of(state):
    return from_record(state.arrays())


def app_of(task, **options):
    return ensemble_app(task, members=M, training=TRAINING, seed=SEED, **options)


def test_the_reply_holds_only_the_assigned_members_with_their_tags(task, assign, state, node):
    message = assign(2, 0)
    sent = message.content["arrays"]
    assert {name.split("/")[0] for name in sent} == {"member-0", "member-2"}
    reply = app_of(task)(message, node())
    returned = from_record(reply.content["arrays"])
    assert set(returned) == set(sent)
    assert dict(reply.content[TAGS]) == {"member-2/tag": 1002, "member-0/tag": 1000}
    assert not torch.equal(returned["member-2/0.weight"], from_record(sent)["member-2/0.weight"])


def test_a_members_training_does_not_depend_on_the_other_assigned_members(
    task, assign, state, ask, node
):
    alone = from_record(app_of(task)(assign(2), node()).content["arrays"])
    together = from_record(app_of(task)(assign(3, 2), node()).content["arrays"])
    whole = from_record(app_of(task)(ask(initial_state_of(state)), node()).content["arrays"])
    for name, tensor in alone.items():
        assert torch.equal(tensor, together[name])
        assert torch.equal(tensor, whole[name])


def test_a_bootstrap_sample_differs_by_member_and_not_by_message(task, assign, state, node):
    def trained(message, **options):
        return from_record(app_of(task, **options)(message, node()).content["arrays"])

    start = state.models[0].model()
    models = tuple(ServerState.of(to_record(start)).models[0] for _ in range(M))
    plain = trained(assign(0, models=models))
    bagged = trained(assign(0, 1, models=models), bagging=True)
    again = trained(assign(0, models=models), bagging=True)
    name = "0.weight"
    assert not torch.equal(bagged[f"member-0/{name}"], plain[f"member-0/{name}"])
    assert not torch.equal(bagged[f"member-0/{name}"], bagged[f"member-1/{name}"])
    assert torch.equal(bagged[f"member-0/{name}"], again[f"member-0/{name}"])


def test_a_member_beyond_the_ensemble_is_an_error(task, ask, node):
    arrays = to_record(add_member_prefix(7, initial_state(task, 1, Seeds(0))))
    ask({})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"members": [7]})})
    with pytest.raises(ConfigError, match="a client of 4 members has no member-7"):
        app_of(task)(Message(content, 1, "train"), node())


def test_error_feedback_keeps_one_residual_per_member(task, assign, node):
    app, context = app_of(task), node()
    first = app(assign(0, 2, codec=FEEDBACK), context)
    assert {name for name in first.content["arrays"] if name.endswith(DELTA)} == {
        f"member-0/{DELTA}",
        f"member-2/{DELTA}",
    }
    held = context.state.array_records["hqde.codec.member-0.memory"]
    app(assign(2, number=2, codec=FEEDBACK), context)
    assert context.state.array_records["hqde.codec.member-0.memory"] == held
    assert "hqde.codec.member-1.memory" not in context.state.array_records

    alone = node()
    app(assign(2, codec=FEEDBACK), alone)
    app(assign(2, number=2, codec=FEEDBACK), alone)
    for name in ("hqde.codec.member-2", "hqde.codec.member-2.memory"):
        assert alone.state[name] == context.state[name]


def test_each_member_is_reconstructed_from_its_own_differences(task, assign, state, node):
    app, context, codec = app_of(task), node(), Quantized(8, unbiased=False)

    def following(models, held):
        following_models = []
        for member, model in enumerate(models):
            before = model.broadcast or Broadcast(model.layout, model.model())
            broadcast = before.with_held({1: before.version} if member in held else {})
            following_models.append(
                replace(model, broadcast=broadcast.next_version(model.model(), codec, Seeds(1)))
            )
        return tuple(following_models)

    models = following(state.models, ())
    reply = app(assign(0, 1, models=models), context)
    assert dict(reply.content[HELD]) == {"member-0/version": 1, "member-1/version": 1}
    moved = tuple(replace(model, flat=model.flat + 0.1) for model in models)
    models = following(moved, (0, 1))
    message = assign(1, 2, models=models)
    assert any(name.startswith(f"member-1/{DELTA}") for name in message.content["arrays"])
    reply = app(message, context)
    assert dict(reply.content[HELD]) == {"member-1/version": 2, "member-2/version": 2}
    kept = from_record(context.state["hqde.model.member-1"])
    assert kept
    for name, tensor in kept.items():
        assert torch.equal(tensor, models[1].broadcast.model[name])
    lost = app(message, node())
    assert dict(lost.content[HELD]) == {"member-1/version": -1, "member-2/version": 2}
    assert "arrays" not in lost.content
