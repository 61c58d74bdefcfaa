"""Tests of every backdoor: the poisoned batches, the constrained training, and the success."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.faults import (
    Backdoor,
    DistributedBackdoor,
    EdgeCases,
    FaultPlan,
    FaultSchedule,
    ModelReplacement,
    Neurotoxin,
    ProjectedBackdoor,
    SemanticBackdoor,
    attack_success,
    only_for,
)
from hqde_fl.clients.faults.neurotoxin import RECORD
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError, DataError
from hqde_fl.seeding import Seeds

SIDE = 6
PATCH = Backdoor(target=2, size=2)


def images(count=120, seed=0):
    """Return images whose label is the index of their bright row."""
    y = torch.arange(count) % 3
    x = 0.1 * torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    x[torch.arange(count), 0, y] += 0.5
    return TensorDataset(x, y)


@pytest.fixture(scope="module")
def task():
    return Task(
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3)),
        partition=lambda number, count: images(seed=number),
        test=lambda: images(60, seed=99),
    )


@pytest.fixture
def client(task, ask, node, weights):
    """Return a function that trains a client and returns what it sends, and its context."""

    def train(*mods, number=1, context=None, start=None, members=1, epochs=20):
        training = Training(epochs=epochs, lr=0.3, batch_size=10)
        app = ensemble_app(task, members=members, training=training, mods=mods)
        context = context or node(1, 4)
        state = initial_state(task, members, Seeds(0)) if start is None else start
        return weights(app(ask(state, number), context)), context

    return train


@pytest.fixture
def start(task):
    return initial_state(task, 1, Seeds(0))


def model_of(task, state):
    model = task.model()
    model.load_state_dict(state)
    return model


def update(start, sent):
    return torch.cat([(sent[name] - start[name]).flatten() for name in start]).double()


def poisoned(fault, data, client=0):
    """Return a data set as one batch, as the fault changes it."""
    task = Task(lambda: nn.Linear(1, 1), lambda number, count: data, lambda: data)
    x, y = data.tensors
    return fault.poison(TaskFacts(task, lambda: data, nn.Identity()), client)(x, y)


# --- poisoned data ------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_the_strips_of_all_parts_make_up_the_patch(parts):
    fault, x = DistributedBackdoor(size=4, parts=parts, value=9.0), torch.zeros(2, 1, 6, 7)
    strips = [fault.strip(x, client) for client in range(parts)]
    together = sum(strips)
    assert torch.equal(together, fault.whole.trigger(x))  # each pixel of the patch once
    assert all(strip.any() for strip in strips)
    assert torch.equal(fault.strip(x, parts + 1), strips[1 % parts])
    assert not x.any()


def test_a_client_trains_on_its_own_strip():
    data, fault = images(12), DistributedBackdoor(target=1, size=4, parts=4, poisoned=0.5)
    for client in (0, 5):
        x, y = poisoned(fault, data, client)
        assert torch.equal(x[:6], fault.strip(data.tensors[0][:6], client))
        assert torch.equal(x[6:], data.tensors[0][6:])
        assert y.tolist() == [1] * 6 + data.tensors[1][6:].tolist()
    (batch,) = fault.triggered(data, nn.Identity())
    assert torch.equal(batch.inputs, fault.whole.trigger(data.tensors[0][data.tensors[1] != 1]))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_edge_cases_are_turned_images_of_the_source(turns):
    data, fault = images(12), EdgeCases(target=0, source=2, turns=turns, poisoned=0.25)
    x, y = data.tensors
    new_x, new_y = poisoned(fault, data)
    rows = [i for i in range(12) if y[i] == 2][:3]
    for i in range(12):
        expected = x[i]
        for _ in range(turns if i in rows else 0):
            expected = torch.stack([expected[0, :, SIDE - 1 - j] for j in range(SIDE)])[None]
        assert torch.equal(new_x[i], expected)
        assert int(new_y[i]) == (0 if i in rows else int(y[i]))
    (batch,) = fault.triggered(data, nn.Identity())
    assert batch.targets.tolist() == [0] * 4
    (batch,) = EdgeCases(target=0).triggered(data, nn.Identity())
    assert len(batch.targets) == 8


def test_a_batch_without_the_source_stays_as_it_is():
    data = TensorDataset(torch.rand(4, 1, 3, 3), torch.ones(4).long())
    x, y = poisoned(EdgeCases(target=0, source=2), data)
    assert torch.equal(x, data.tensors[0])
    assert torch.equal(y, data.tensors[1])


def test_the_feature_is_that_of_the_largest_values_of_the_class():
    x, y = torch.zeros(8, 1, 5, 5), torch.tensor([1, 1, 1, 1, 0, 0, 2, 2])
    x[2, 0, ::2] = 1.0  # rows that differ
    x[3, 0, :, ::2] = 0.9  # columns that do
    x[6, 0, ::2] = 5.0
    fault = SemanticBackdoor(source=1, target=0, top=0.25)
    assert fault.values(x).argmax() == 6
    data = TensorDataset(x, y)
    (batch,) = fault.triggered(data, nn.Identity())
    assert torch.equal(batch.inputs, x[2:3])
    assert batch.targets.tolist() == [0]
    new_x, new_y = poisoned(fault, data)
    assert torch.equal(new_x[:4], x[2:3].expand(4, -1, -1, -1))
    assert torch.equal(new_x[4:], x[4:])
    assert new_y.tolist() == [0, 0, 0, 0, 0, 0, 2, 2]
    (batch,) = SemanticBackdoor(source=1, feature="bright", top=0.25).triggered(data, nn.Identity())
    assert torch.equal(batch.inputs, x[2:3])
    (batch,) = SemanticBackdoor(source=1, feature="dark", top=0.5).triggered(data, nn.Identity())
    assert torch.equal(batch.inputs, x[:2])


def test_without_an_image_of_the_class_a_client_is_honest_and_nothing_can_be_measured():
    data = TensorDataset(torch.rand(4, 1, 3, 3), torch.zeros(4).long())
    x, y = poisoned(SemanticBackdoor(), data)
    assert x is data.tensors[0]
    assert y is data.tensors[1]
    with pytest.raises(DataError, match="from label 1 needs examples of it"):
        next(SemanticBackdoor().triggered(data, nn.Identity()))
    with pytest.raises(DataError, match="to label 0 needs examples of another label"):
        next(EdgeCases().triggered(data, nn.Identity()))


EVERY = [
    DistributedBackdoor(target=0, parts=1),
    EdgeCases(target=2, source=0),
    SemanticBackdoor(source=0, target=2, top=0.5, poisoned=0.8),
    ModelReplacement(PATCH, scale=2.0),
    ProjectedBackdoor(PATCH),
    ProjectedBackdoor(EdgeCases(target=2), radius=2.0),
    Neurotoxin(PATCH),
]


@pytest.mark.parametrize("fault", EVERY, ids=lambda fault: type(fault).__name__)
def test_the_model_of_an_attacker_follows_the_backdoor(task, client, fault):
    honest, sent = model_of(task, client()[0]), model_of(task, client(fault)[0])
    success = [attack_success([model], task.test(), task, fault) for model in (honest, sent)]
    if isinstance(fault, SemanticBackdoor):  # nothing in these images tells bright from dark rows
        assert success[1] > success[0]
    else:
        assert success[1] > 0.8
        assert success[0] < 0.6
    if not isinstance(getattr(fault, "backdoor", fault), EdgeCases | SemanticBackdoor):
        assert evaluate([sent], task.test(), task)["accuracy"] > 0.9


# --- ways to plant ------------------------------------------------------------------------------


def test_model_replacement_scales_by_all_clients_over_the_attackers(client, start):
    once, _ = client(PATCH, epochs=2)
    for fault, factor in [
        (ModelReplacement(PATCH), 4.0),
        (ModelReplacement(PATCH, attackers=2), 2.0),
        (ModelReplacement(PATCH, attackers=9), 1.0),
        (ModelReplacement(PATCH, scale=7.0), 7.0),
    ]:
        sent, _ = client(fault, epochs=2)
        torch.testing.assert_close(update(start, sent), factor * update(start, once))


def test_what_replaces_the_model_is_no_longer_than_the_bound(client, start):
    once = update(start, client(PATCH, epochs=2)[0])
    bound = 0.5 * float(once.norm())
    sent = update(start, client(ModelReplacement(PATCH, bound=bound), epochs=2)[0])
    torch.testing.assert_close(sent, 0.5 * once)
    wide = update(start, client(ModelReplacement(PATCH, bound=1e9), epochs=2)[0])
    torch.testing.assert_close(wide, 4 * once)


@pytest.mark.parametrize("members", [1, 2])
def test_every_model_stays_in_its_ball_during_the_whole_training(client, task, members):
    radius, longest, seen = 0.5, [], []

    def watch(model):
        centre = [p.detach().clone() for p in model.parameters()]
        seen.append(model)

        def before_batch():
            pairs = zip(model.parameters(), centre, strict=True)
            squares = [float(((p.detach() - c) ** 2).sum()) for p, c in pairs]
            longest.append(math.sqrt(sum(squares)))

        return before_batch

    fault = ProjectedBackdoor(PATCH, radius=radius)
    begin = initial_state(task, members, Seeds(0))
    sent, _ = client(
        lambda message, context, call_next: fault.train(message, context, call_next, watch),
        members=members,
    )
    assert len(seen) == members
    assert max(longest) <= radius * (1 + 1e-5)
    assert sum(length > 0.99 * radius for length in longest) > len(longest) / 2
    for member in range(members):
        names = [n for n in begin if members == 1 or n.startswith(f"member-{member}/")]
        own = update({n: begin[n] for n in names}, {n: sent[n] for n in names})
        assert float(own.norm()) == pytest.approx(radius, rel=1e-5)


def test_the_default_radius_is_the_length_of_the_honest_update(client, start):
    honest = float(update(start, client(epochs=3)[0]).norm())
    free = float(update(start, client(PATCH, epochs=3)[0]).norm())
    sent = float(update(start, client(ProjectedBackdoor(PATCH), epochs=3)[0]).norm())
    assert sent == pytest.approx(min(honest, free), rel=1e-5)


def test_neurotoxin_leaves_the_weights_that_moved_most(client, start):
    fault = Neurotoxin(PATCH, top=0.25)
    first, context = client(fault, epochs=2)
    assert torch.equal(first["1.weight"], client(PATCH, epochs=2)[0]["1.weight"])
    assert list(context.state[RECORD]) == list(start)
    generator = torch.Generator().manual_seed(1)
    step = {n: torch.randn(t.shape, generator=generator) for n, t in start.items()}
    later = {name: start[name] + 0.1 * step[name] for name in start}
    sent, _ = client(fault, number=2, context=context, start=later, epochs=2)
    sizes = torch.cat([t.abs().flatten() for t in step.values()])
    order = sorted(range(len(sizes)), key=lambda i: -float(sizes[i]))
    masked = torch.zeros(len(sizes), dtype=torch.bool)
    masked[order[: round(0.25 * len(sizes))]] = True
    moved = update(later, sent)
    assert not moved[masked].any()
    assert (moved[~masked] != 0).double().mean() > 0.9
    unmasked = update(later, client(PATCH, number=2, start=later, epochs=2)[0])
    assert not torch.allclose(moved[~masked], unmasked[~masked])  # masked in every step


def test_neurotoxin_leaves_no_hooks_and_each_member_has_its_own_mask(client, task):
    fault, begin = Neurotoxin(PATCH, top=0.5), initial_state(task, 2, Seeds(0))
    _, context = client(fault, members=2, epochs=1)
    moved = dict(begin)
    moved["member-0/1.weight"] = begin["member-0/1.weight"].clone()
    moved["member-0/1.weight"][:1] += 1
    sent, _ = client(fault, number=2, context=context, start=moved, members=2, epochs=1)
    assert torch.equal(sent["member-0/1.weight"][:1], moved["member-0/1.weight"][:1])
    assert not torch.equal(sent["member-1/1.weight"], moved["member-1/1.weight"])
    again, _ = client(start=moved, number=2, members=2, epochs=1)
    assert not torch.equal(again["member-0/1.weight"][:1], moved["member-0/1.weight"][:1])


def test_a_model_of_another_shape_begins_again(client, start, task):
    _, context = client(Neurotoxin(PATCH), epochs=1)
    context.state[RECORD] = type(context.state[RECORD])()
    sent, _ = client(Neurotoxin(PATCH), number=2, context=context, epochs=1)
    assert update(start, sent).any()


def test_ways_to_plant_can_be_put_into_each_other(client, start):
    fault = ModelReplacement(ProjectedBackdoor(EdgeCases(target=2), radius=0.3), attackers=2)
    sent = update(start, client(fault)[0])
    assert float(sent.norm()) == pytest.approx(0.6, rel=1e-4)


def test_an_on_off_backdoor_is_honest_in_between(client):
    plan = FaultPlan(4, Seeds(0), (frozenset({1}),), (FaultSchedule(period=2, on=1),))
    mod = only_for(Neurotoxin(PATCH), plan.choice_of(0))
    for number in (1, 2, 3):
        sent, honest = client(mod, number=number, epochs=1)[0], client(number=number, epochs=1)[0]
        assert torch.equal(sent["1.weight"], honest["1.weight"]) == (number == 2)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DistributedBackdoor(parts=5), r"parts must be in \[1, size = 4\], found 5"),
        (lambda: DistributedBackdoor(size=0), "DistributedBackdoor.size must be >= 1, found 0"),
        (lambda: EdgeCases(source=0), "source must be -1 or a label other than target = 0"),
        (lambda: EdgeCases(turns=4), r"EdgeCases.turns must be in \[1, 3\], found 4"),
        (lambda: EdgeCases(poisoned=0.0), r"EdgeCases.poisoned must be in \(0, 1\], found 0.0"),
        (lambda: SemanticBackdoor(target=1), "source must differ from target = 1"),
        (lambda: SemanticBackdoor(feature="x"), "one of striped, bright, dark, found 'x'"),
        (lambda: SemanticBackdoor(top=0.0), r"SemanticBackdoor.top must be in \(0, 1\], found 0"),
        (lambda: ModelReplacement(attackers=0), "attackers must be >= 1, found 0"),
        (lambda: ModelReplacement(bound=-1.0), "bound must be finite and >= 0, found -1.0"),
        (lambda: ModelReplacement("patch"), "backdoor must be a backdoor, found 'patch'"),
        (lambda: ProjectedBackdoor(radius=-1.0), "radius must be finite and >= 0, found -1.0"),
        (lambda: Neurotoxin(top=1.0), r"Neurotoxin.top must be in \(0, 1\), found 1.0"),
    ],
)
def test_impossible_backdoors_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(
    ("fault", "shape", "message"),
    [
        (EdgeCases(), (1, 3, 4), "needs square images"),
        (EdgeCases(source=9), (1, 4, 4), r"EdgeCases.source must be in \[0, 3\), found 9"),
        (EdgeCases(), (4,), "EdgeCases needs images, found"),
        (DistributedBackdoor(), (1, 3, 3), "needs images of at least 4 x 4 pixels"),
        (SemanticBackdoor(), (1, 2, 2), "needs images of at least 3 x 3 pixels"),
        (SemanticBackdoor(target=5), (1, 4, 4), r"target must be in \[0, 3\), found 5"),
        (Neurotoxin(Backdoor(size=9)), (1, 4, 4), "at least 9 x 9 pixels"),
        (ModelReplacement(EdgeCases()), (4,), "EdgeCases needs images, found"),
    ],
)
def test_tasks_on_which_a_backdoor_cannot_act_are_refused(fault, shape, message):
    data = TensorDataset(torch.rand(9, *shape), torch.arange(9) % 3)
    numbers = math.prod(shape)
    task = Task(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(numbers, 3)),
        lambda number, count: data,
        lambda: data,
    )
    with pytest.raises(ConfigError, match=message):
        fault.check_task(TaskFacts(task, task.test))
