"""Tests of the properties of every fault, and of the single faults."""

import os
from dataclasses import replace

import pytest
import torch
from flwr.app import ArrayRecord, Error, Message, RecordDict

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.faults import (
    FAULTS,
    BackdoorFault,
    Crash,
    Gaussian,
    LabelFlip,
    NaN,
    SignFlip,
    Straggle,
    WrongShape,
    only_for,
)
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.clients.training_hooks import idle, poison
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds

TRAINING = Training(lr=0.1, batch_size=4)
SENDING = [
    "free-ride",
    "gaussian",
    "infinity",
    "label-flip",
    "nan",
    "scaling",
    "sign-flip",
    "statistics",
    "wrong-shape",
    "zero",
]
"""Faults that send all of the model's arrays with changed values from the first round on."""


def fault_of(name):
    if name == "label-flip":
        return LabelFlip(classes=3)
    return Straggle(seconds=0.0) if name == "straggle" else FAULTS.build(name)


@pytest.fixture(autouse=True)
def survived(monkeypatch):
    """Make a killed client raise ``SystemExit`` instead of ending the process."""

    def exit(status):
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", exit)


@pytest.fixture
def state(task):
    return initial_state(task, 1, Seeds(0))


@pytest.fixture
def reply(task, ask, node, state):
    """Return a function that gives the reply of a client with the given mods."""

    def build(*mods, number=1, partition=0, start=None, kind="train"):
        app = ensemble_app(task, training=TRAINING, mods=mods)
        return app(ask(start or state, number, kind), node(partition))

    return build


@pytest.fixture
def images(ask, node):
    """Return a function that gives the reply of a client whose data are 4 x 4 images."""
    generator = torch.Generator().manual_seed(0)
    data = torch.utils.data.TensorDataset(
        torch.rand(21, 1, 4, 4, generator=generator), torch.arange(21) % 3
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    task = Task(lambda: model, lambda i, n: data, lambda: data)

    def build(*mods):
        app = ensemble_app(task, training=TRAINING, mods=mods)
        return app(ask(initial_state(task, 1, Seeds(0))), node())

    return build


def weights(reply):
    return from_record(reply.content["arrays"])


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("name", list(FAULTS))
def test_every_fault_acts_on_training_alone(reply, name):
    honest, faulty = reply(kind="evaluate"), reply(fault_of(name), kind="evaluate")
    assert faulty.content == honest.content
    identity = reply(fault_of(name), kind="query.identity")
    assert identity.content["identity"]["partition-id"] == 0


@pytest.mark.parametrize("name", list(FAULTS))
def test_every_fault_acts_on_the_chosen_clients_alone(reply, name):
    mod = only_for(fault_of(name), {1, 2})
    assert same(weights(reply(mod)), weights(reply()))


def test_a_faulty_client_says_who_it_is_before_the_server_has_numbered_it(task, ask, node, state):
    context = node()
    context.node_config.clear()
    app = ensemble_app(task, training=TRAINING, mods=[only_for(SignFlip(), {0})])
    reply = app(ask(state, kind="query.identity"), context)
    assert dict(reply.content["identity"]) == {}


@pytest.mark.parametrize("name", list(FAULTS))
def test_every_fault_resets_its_training_hooks(reply, images, name):
    try:
        fault = fault_of(name)
        images(fault) if isinstance(fault, BackdoorFault) else reply(fault)
    except (RuntimeError, SystemExit):
        assert name in ("crash", "kill")
    assert poison.get() is None
    assert idle.get() is False


@pytest.mark.parametrize("name", SENDING)
def test_every_fault_sends_the_metrics_of_an_honest_reply(reply, name):
    honest, faulty = reply(), reply(fault_of(name))
    assert set(faulty.content) == set(honest.content)
    metrics = faulty.content["metrics"]
    assert set(metrics) == set(honest.content["metrics"])
    assert metrics["num-examples"] == honest.content["metrics"]["num-examples"]
    assert 0 < metrics["train-loss"] < 10
    assert faulty.metadata.message_type == "train"
    assert list(faulty.content["arrays"]) == list(honest.content["arrays"])


@pytest.mark.parametrize("name", SENDING)
def test_every_fault_keeps_integer_buffers_and_names(reply, name):
    honest, faulty = weights(reply()), weights(reply(fault_of(name)))
    assert list(faulty) == list(honest)
    assert all(faulty[k].dtype == honest[k].dtype for k in honest)
    assert faulty["1.num_batches_tracked"] in (0, honest["1.num_batches_tracked"])
    differ = {k for k in honest if not torch.equal(faulty[k], honest[k])}
    assert differ - {"1.num_batches_tracked"}


@pytest.mark.parametrize("name", SENDING)
def test_every_fault_is_reproducible(reply, name):
    first = reply(only_for(fault_of(name), {0}, seed=3)).content["arrays"]
    assert reply(only_for(fault_of(name), {0}, seed=3)).content["arrays"] == first


@pytest.mark.parametrize("name", SENDING)
def test_every_fault_copes_with_several_members_and_bfloat16(task, ask, node, name):
    half = replace(task, model=lambda: task.model().to(torch.bfloat16), loss=_loss)
    half = replace(half, partition=lambda i, n: _half(task.partition(i, n)))
    state = initial_state(half, 2, Seeds(0))
    app = ensemble_app(half, members=2, training=TRAINING, mods=[fault_of(name)])
    message = ask(state)
    before = message.content["arrays"].copy()
    sent = weights(app(message, node()))
    assert list(sent) == list(state)
    assert all(sent[k].dtype == state[k].dtype for k in state)
    assert message.content["arrays"] == before


def _loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs.float(), targets)


def _half(data):
    x, y = data.tensors
    return torch.utils.data.TensorDataset(x.to(torch.bfloat16), y)


@pytest.mark.parametrize("name", SENDING)
def test_every_fault_copes_with_replies_that_it_cannot_falsify(ask, node, state, name):
    message = ask(state)
    failed = Message(Error(0, "out of memory"), reply_to=message)
    empty = Message(RecordDict(), reply_to=message)
    for answer in (failed, empty):
        assert fault_of(name)(message, node(), lambda *_, a=answer: a) is answer
    for odd in ({}, {"other": torch.ones(2, 3)}, {"n": torch.tensor(3)}, {"e": torch.ones(0, 2)}):
        answer = Message(RecordDict({"update": to_record(odd)}), reply_to=message)
        sent = fault_of(name)(message, node(), lambda *_, a=answer: a)
        assert list(sent.content["update"]) == list(odd)


def test_a_sign_flip_reverses_and_scales_the_update(reply, state, weight_names):
    honest, faulty = weights(reply()), weights(reply(SignFlip(scale=3.0)))
    for name, start in state.items():
        if name in weight_names:
            expected = start - 3 * (honest[name] - start)
            torch.testing.assert_close(faulty[name], expected)
        else:
            assert torch.equal(faulty[name], honest[name])


def test_flipped_labels_are_reversed_or_constant(task, reply, ask, node, state):
    x, y = task.partition(0, 3).tensors
    except_two = torch.where(y == 2, 2, torch.ones_like(y))
    for fault, labels in (
        (LabelFlip(3), 2 - y),
        (LabelFlip(3, to=1), torch.ones_like(y)),
        (LabelFlip(3, to=1, keep=(2,)), except_two),
    ):
        data = torch.utils.data.TensorDataset(x, labels)
        wrong = replace(task, partition=lambda i, n, d=data: d)
        expected = ensemble_app(wrong, training=TRAINING)(ask(state), node())
        assert same(weights(reply(fault)), weights(expected))
    assert not same(weights(reply(LabelFlip(3))), weights(reply()))


def test_labels_beyond_the_classes_are_an_error(reply):
    with pytest.raises(ConfigError, match="LabelFlip\\(classes=2\\) needs labels below 2, found 2"):
        reply(LabelFlip(classes=2))
    with pytest.raises(ConfigError, match=r"keep must hold labels in \[0, 3\), found 3"):
        LabelFlip(3, keep=(3,))


def test_no_message_can_poison_a_client(task, ask, node, state):
    message = ask(state)
    for key in ("poison", "idle"):
        message.content["config"][key] = True
    app = ensemble_app(task, training=TRAINING)
    assert same(weights(app(message, node())), weights(app(ask(state), node())))


def test_gaussian_noise_lies_around_the_global_model(task, ask, node):
    wide = replace(task, model=lambda: torch.nn.Linear(4, 4000))
    state = initial_state(wide, 1, Seeds(0))
    mod = only_for(Gaussian(sigma=0.5), {0, 1})
    app = ensemble_app(wide, mods=[mod])

    def noise(number, partition):
        sent = weights(app(ask(state, number), node(partition)))
        return torch.cat([(sent[k] - state[k]).flatten() for k in state])

    first = noise(1, 0)
    assert float(first.mean()) == pytest.approx(0, abs=0.02)
    assert float(first.std()) == pytest.approx(0.5, rel=0.02)
    for other in (noise(2, 0), noise(1, 1)):
        assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.05
    again = ensemble_app(wide, mods=[only_for(Gaussian(sigma=0.5), {0}, seed=1)])
    assert not same(weights(again(ask(state), node())), weights(app(ask(state), node())))


def test_a_nan_hits_one_weight_or_a_fraction(reply, weight_names):
    honest = weights(reply())
    total = sum(honest[name].numel() for name in weight_names)
    for fraction, expected in ((0.0, 1), (0.25, round(0.25 * total)), (1.0, total)):
        faulty = weights(reply(NaN(fraction)))
        hit = {k: torch.isnan(t) for k, t in faulty.items()}
        assert sum(int(mask.sum()) for mask in hit.values()) == expected
        assert all(torch.equal(faulty[k][~hit[k]], honest[k][~hit[k]]) for k in honest)


def test_a_nan_hits_another_weight_in_every_round(reply):
    places = {
        tuple(torch.cat([t.flatten().isnan() for t in sent.values()]).nonzero().flatten().tolist())
        for sent in (weights(reply(NaN(), number=number)) for number in range(5))
    }
    assert len(places) > 1


@pytest.mark.parametrize(("how", "shape"), [("transpose", (4, 8)), ("truncate", (7, 4))])
def test_a_wrong_shape_is_the_shape_of_one_array(reply, state, how, shape):
    faulty = weights(reply(WrongShape(how)))
    wrong = {k: tuple(t.shape) for k, t in faulty.items() if t.shape != state[k].shape}
    assert wrong == {"0.weight": shape}


def test_a_wrong_shape_skips_square_arrays(ask, node):
    square = {"a": torch.ones(3, 3), "b": torch.ones(2, 3)}
    vector = {"a": torch.ones(3, 3), "c": torch.tensor(1.0)}
    for state, expected in ((square, {"a": (3, 3), "b": (3, 2)}), (vector, {"a": (2, 3), "c": ()})):
        message = ask(state)
        answer = Message(RecordDict({"arrays": to_record(state)}), reply_to=message)
        sent = weights(WrongShape()(message, node(), lambda *_, a=answer: a))
        assert {k: tuple(t.shape) for k, t in sent.items()} == expected


def test_a_crash_names_the_partition_and_the_round(reply):
    with pytest.raises(RuntimeError, match="'crash' of partition 2 in round 4"):
        reply(Crash(), number=4, partition=2)


def test_a_record_of_any_name_is_changed(node, ask):
    message = ask({})
    message.content.pop("arrays")
    message.content["model"] = to_record({"w": torch.zeros(2)})
    answer = Message(RecordDict({"update": to_record({"w": torch.ones(2)})}), reply_to=message)
    sent = SignFlip()(message, node(), lambda *_: answer)
    assert from_record(sent.content["update"])["w"].tolist() == [-1, -1]
    assert isinstance(answer.content["update"], ArrayRecord)
    assert from_record(answer.content["update"])["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SignFlip(scale=0.0), "SignFlip.scale must be finite and > 0, found 0.0"),
        (lambda: SignFlip(scale=float("inf")), "found inf"),
        (lambda: Gaussian(sigma=-1.0), "Gaussian.sigma must be finite and > 0, found -1.0"),
        (lambda: NaN(fraction=1.5), r"NaN.fraction must be in \[0, 1\], found 1.5"),
        (lambda: LabelFlip(classes=1), "LabelFlip.classes must be >= 2, found 1"),
        (lambda: LabelFlip(classes=3, to=3), r"LabelFlip.to must be in \[0, 3\), found 3"),
        (lambda: WrongShape("rotate"), "'transpose' or 'truncate', found 'rotate'"),
        (lambda: FAULTS.build({"name": "wrong-shape", "how": "rotate"}), "found 'rotate'"),
        (lambda: FAULTS.build("sign-flop"), "did you mean 'sign-flip'"),
    ],
)
def test_impossible_faults_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_every_fault_has_a_summary_and_defaults():
    for name in FAULTS:
        assert FAULTS.summary(name).endswith(".")
        assert FAULTS.name_of(FAULTS.build(name)) == name
