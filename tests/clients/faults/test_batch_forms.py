"""Tests that faults in training act on every form of batches, or are refused before the run."""

import collections

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.batches import Arguments
from hqde_fl.clients.faults import Backdoor, LabelFlip, attack_success
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.experiment.faults import FaultSchedule, PlannedFault

SIDE, CLASSES, COUNT = 5, 3, 60
Y = torch.arange(COUNT) % CLASSES
X = 0.1 * torch.rand(COUNT, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
X[torch.arange(COUNT), 0, Y] += 0.5
Example = collections.namedtuple("Example", "label image")


class Rows(nn.Module):
    """A linear model of images."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(SIDE * SIDE, CLASSES)

    def forward(self, pixels):
        return self.out(pixels.flatten(1))


class Weighted(Rows):
    def forward(self, pixels, weight):
        return super().forward(pixels * weight[:, None, None, None])


class OfMapping(Rows):
    def forward(self, batch):
        return super().forward(batch["image"])


class OfTokens(nn.Module):
    """A model of token ids."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(CLASSES + 1, CLASSES)

    def forward(self, ids):
        return self.embedding(ids)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(1, CLASSES)

    def forward(self, rows):
        return self.rnn(rows)[1][0]


class TwoImages(Rows):
    def forward(self, left, right):
        return super().forward(left + right)


def examples(make):
    return [make(x, int(y)) for x, y in zip(X, Y, strict=True)]


def task_of(model, make, collate=None):
    data = examples(make)
    return Task(model, lambda number, count: data, lambda: data, collate=collate)


def packed(examples):
    rows = [torch.ones(1 + y, 1) for _, y in examples]
    return pack_sequence(rows, enforce_sorted=False), torch.tensor([y for _, y in examples])


def arguments(examples):
    x = torch.stack([x for x, _ in examples])
    y = torch.tensor([y for _, y in examples])
    return Arguments((x,), {"weight": torch.ones(len(x))}), y


IMAGES = {
    "tuple": task_of(Rows, lambda x, y: (x, y)),
    "named tuple": task_of(Rows, lambda x, y: Example(y, x)),
    "mapping": task_of(Rows, lambda x, y: {"pixels": x, "text": "t", "label": y}),
    "one mapping": task_of(OfMapping, lambda x, y: {"image": x, "text": "t", "label": y}),
    "two inputs": task_of(Weighted, lambda x, y: (x, torch.tensor(1.0), y)),
    "arguments": task_of(Weighted, lambda x, y: (x, y), arguments),
}
OTHERS = {
    "token ids": task_of(OfTokens, lambda x, y: {"ids": torch.tensor([y, y]), "labels": y}),
    "packed": task_of(Packed, lambda x, y: (x, y), packed),
    "two images": task_of(TwoImages, lambda x, y: (x, x, y)),
}


@pytest.fixture
def trained(ask, node, weights):
    """Return a function that trains a client on a task and returns the model that it sends."""

    def build(task, *mods):
        app = ensemble_app(task, training=Training(epochs=8, lr=0.5, batch_size=10), mods=mods)
        model = task.model()
        model.load_state_dict(weights(app(ask(initial_state(task, 1, Seeds(0))), node())))
        return model

    return build


@pytest.mark.parametrize("form", IMAGES)
def test_a_backdoor_acts_on_every_form_of_batch_with_one_input_of_images(form, trained):
    task, backdoor = IMAGES[form], Backdoor(target=2, size=2)
    backdoor.check_task(TaskFacts(task, task.test))
    models = trained(task), trained(task, backdoor)
    honest, poisoned = (attack_success([m], task.test(), task, backdoor) for m in models)
    assert honest < 0.2
    assert poisoned > 0.9


@pytest.mark.parametrize("form", OTHERS)
def test_a_backdoor_without_one_input_of_images_is_refused_before_the_run(form):
    task = OTHERS[form]
    planned = PlannedFault("backdoor", Backdoor(size=1), 1, FaultSchedule())
    with pytest.raises(ConfigError) as error:
        planned.check_task(TaskFacts(task, task.test))
    text = str(error.value)
    number = "one input of images, found several in" if form == "two images" else "images, found"
    begin = f"fault 'backdoor' cannot act on this task: Backdoor needs {number} a batch of "
    assert text.startswith(begin)
    assert "\n" not in text


@pytest.mark.parametrize("form", [*IMAGES, *OTHERS])
def test_labels_are_flipped_in_every_form_of_batch(form, trained):
    task, flip = (IMAGES | OTHERS)[form], LabelFlip()
    flip.check_task(TaskFacts(task, task.test))
    honest, flipped = (trained(task, *mods).state_dict() for mods in ((), (flip,)))
    assert any(not torch.equal(honest[name], flipped[name]) for name in honest)


@pytest.mark.parametrize("fault", [LabelFlip(), Backdoor()])
def test_a_batch_without_targets_is_refused_before_the_run(fault):
    task = task_of(Rows, lambda x, y: {"pixels": x, "text": "t"})
    with pytest.raises((ConfigError, TaskError), match="found BatchWithoutTargets"):
        fault.check_task(TaskFacts(task, task.test))
