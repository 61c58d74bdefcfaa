"""A client that is asked for a part of its local training."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.batch_iteration import iterate_batches, shuffled_batches
from hqde_fl.clients.faults import FreeRide, SignFlip
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training, train
from hqde_fl.codec import ErrorFeedback, Quantized
from hqde_fl.protocol.partial_work import requested_work
from hqde_fl.seeding import Seeds
from tests.clients.conftest import blobs


class Counted(torch.optim.SGD):
    """SGD that keeps the weights after each step."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.1)
        self.model, self.after = model, []

    def step(self, closure=None):
        super().step(closure)
        self.after.append([p.detach().clone() for p in self.model.parameters()])


def steps(work, *, examples=21, epochs=1, batch_size=4, task=None, data=None):
    """Return the weights after each step that a client takes."""
    task = task or Task(lambda: nn.Linear(4, 3), blobs, lambda: blobs(9, 9))
    torch.manual_seed(0)
    model = task.model()
    optimizer = Counted(model)
    data = blobs(0, 3, examples) if data is None else data
    training = Training(epochs=epochs, batch_size=batch_size)
    generator = torch.Generator().manual_seed(7)
    train(model, data, task, training, generator, optimizer, work)
    return optimizer.after


@given(
    examples=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 3),
    part=st.integers(1, 8),
)
@settings(max_examples=30, deadline=None)
def test_a_part_is_the_beginning_of_all_steps(examples, batch_size, epochs, part):
    options = {"examples": examples, "batch_size": batch_size, "epochs": epochs}
    whole, partly = steps(1.0, **options), steps(part / 8, **options)
    assert len(partly) == math.ceil(part / 8 * len(whole)) >= 1
    for one, other in zip(partly, whole, strict=False):
        assert all(map(torch.equal, one, other))


@given(examples=st.integers(1, 200), size=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_the_number_of_batches_is_known(examples, size):
    data = TensorDataset(torch.zeros(examples, 2), torch.zeros(examples, dtype=torch.long))
    batches = iterate_batches(data, size, nn.Linear(2, 2), torch.Generator())
    assert shuffled_batches(examples, size) == sum(1 for _ in batches)


def test_batches_without_targets_count_as_done_but_one_step_is_taken():
    x, y = torch.randn(8, 4), torch.full((8,), -100)
    y[torch.randperm(8, generator=torch.Generator().manual_seed(3))[0]] = 1
    data = TensorDataset(x, y)
    assert len(steps(1.0, data=data, batch_size=1)) == 1
    assert len(steps(0.125, data=data, batch_size=1)) == 1
    assert len(steps(0.125, data=data, batch_size=1, epochs=3)) == 1


def asked(message, work):
    message.content["config"]["work"] = work
    return message


def reply_of(task, ask, node, work, *mods, members=1, context=None, number=1):
    app = ensemble_app(
        task,
        members=members,
        training=Training(lr=0.1, batch_size=4, epochs=4),
        mods=mods,
    )
    message = ask(initial_state(task, members, Seeds(0)), number)
    if work is not None:
        asked(message, work)
    return app(message, context or node())


@pytest.mark.parametrize("members", [1, 3])
def test_a_client_confirms_the_part_that_it_did(task, ask, node, weights, members):
    whole = reply_of(task, ask, node, None, members=members)
    half = reply_of(task, ask, node, 0.5, members=members)
    assert half.content["metrics"]["work"] == 0.5
    assert "work" not in whole.content["metrics"]
    counters = [n for n in weights(half) if n.endswith("num_batches_tracked")]
    assert len(counters) == members
    # 21 examples in batches of 4, four times, the last batch of one left out
    assert {int(weights(whole)[name]) for name in counters} == {20}
    assert {int(weights(half)[name]) for name in counters} == {10}
    assert half.content["metrics"]["num-examples"] == whole.content["metrics"]["num-examples"]


@pytest.mark.parametrize("work", [0.0, -0.5, 1.0, 1.5, math.nan, math.inf, "half", 1, [0.5]])
def test_what_is_no_part_means_all(task, ask, node, weights, same, work):
    assert requested_work(asked(ask({}), work)) == 1.0
    reply = reply_of(task, ask, node, work)
    assert "work" not in reply.content["metrics"]
    assert same(weights(reply), weights(reply_of(task, ask, node, None)))


@pytest.mark.parametrize("fault", [SignFlip(), FreeRide()])
def test_faults_leave_the_confirmation_as_it_is(task, ask, node, fault):
    assert reply_of(task, ask, node, 0.5, fault).content["metrics"]["work"] == 0.5


def test_error_feedback_carries_over_between_parts(task, ask, node, screened):
    """The packed updates of several rounds add up to the plain ones but for the last residual."""
    mod, context = CodecMod(ErrorFeedback(Quantized(2, unbiased=False))), node()
    sent, plain = [], []
    for number, work in enumerate([0.5, None, 0.125, 0.5, 0.25, 0.5], start=1):
        packed = reply_of(task, ask, node, work, mod, context=context, number=number)
        assert packed.content["metrics"].get("work") == work
        sent.append(screened(packed).delta)
        plain.append(screened(reply_of(task, ask, node, work, number=number)).delta)
    errors = [float((a - b).norm()) for a, b in zip(sent, plain, strict=True)]
    total = float((sum(sent) - sum(plain)).norm())
    assert 0 < total < 0.6 * sum(errors)
