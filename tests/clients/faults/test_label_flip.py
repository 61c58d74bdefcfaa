"""Tests of ``LabelFlip``, which takes its classes from the task."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.faults import LabelFlip
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds

TRAINING = Training(lr=0.1, batch_size=4)


class Named(nn.Linear):
    """A linear model that returns its scores as the attribute ``logits``."""

    def forward(self, input: torch.Tensor) -> SimpleNamespace:  # type: ignore[override]
        return SimpleNamespace(logits=super().forward(input))


def bce(outputs, targets):
    return functional.binary_cross_entropy_with_logits(outputs.flatten(), targets.flatten().float())


def named(outputs, targets):
    return functional.cross_entropy(outputs.logits, targets)


def task_of(model, targets, loss=functional.cross_entropy, **more):
    generator = torch.Generator().manual_seed(5)
    data = TensorDataset(torch.randn(len(targets), 4, generator=generator), targets)
    return Task(model, lambda i, n: data, lambda: data, loss, metrics={}, **more)


def flat(classes):
    return partial(nn.Linear, 4, classes)


Y = torch.arange(20) % 2
IMAGES = torch.arange(20 * 4).view(20, 2, 2) % 3


def images():
    return nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 2, 2)))


CASES = {
    "two classes": (task_of(flat(2), Y), LabelFlip(), 1 - Y),
    "given": (task_of(flat(2), Y), LabelFlip(classes=2), 1 - Y),
    "the task's own": (task_of(flat(4), Y, classes=2), LabelFlip(), 1 - Y),
    "more scores than labels": (task_of(flat(4), Y), LabelFlip(), 3 - Y),
    "to": (task_of(flat(3), Y), LabelFlip(to=2), torch.full_like(Y, 2)),
    "keep": (task_of(flat(3), Y), LabelFlip(keep=(1,)), torch.where(Y == 0, 2, 1)),
    "to and keep": (task_of(flat(3), Y), LabelFlip(to=2, keep=(0,)), 2 * Y),
    "logits": (task_of(partial(Named, 4, 2), Y, named), LabelFlip(), 1 - Y),
    "pixels": (task_of(images, IMAGES), LabelFlip(), 2 - IMAGES),
    "bytes": (
        task_of(flat(2), Y.byte(), lambda o, t: functional.cross_entropy(o, t.long())),
        LabelFlip(),
        (1 - Y).byte(),
    ),
    "one logit": (task_of(flat(1), Y.float()[:, None], bce), LabelFlip(), 1 - Y.float()[:, None]),
    "one logit to 1": (task_of(flat(1), Y.float(), bce), LabelFlip(to=1), torch.ones(20)),
    "one logit, integers": (task_of(flat(1), Y, bce), LabelFlip(), 1 - Y),
    "one logit, truth values": (task_of(flat(1), Y.bool(), bce), LabelFlip(), ~Y.bool()),
    "a column": (
        task_of(flat(3), Y[:, None], lambda o, t: functional.cross_entropy(o, t[:, 0])),
        LabelFlip(),
        2 - Y[:, None],
    ),
    "several at once": (
        task_of(flat(2), torch.stack([Y, 1 - Y], 1).float(), bce, classes=2),
        LabelFlip(),
        torch.stack([1 - Y, Y], 1).float(),
    ),
    "ignored": (
        task_of(flat(2), torch.where(Y == 0, -100, Y)),
        LabelFlip(),
        torch.where(Y == 0, -100, 1 - Y),
    ),
    "ignored, its own": (
        task_of(flat(2), torch.where(Y == 0, 255, Y), nn.CrossEntropyLoss(ignore_index=255)),
        LabelFlip(to=0),
        torch.where(Y == 0, 255, 0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_label_flip_trains_on_the_flipped_labels(ask, node, weights, same, case):
    task, fault, wrong = CASES[case]
    fault.check_task(TaskFacts(task, task.test))
    x, right = task.test().tensors
    state = initial_state(task, 1, Seeds(0))

    def trained(labels, *mods):
        data = TensorDataset(x, labels)
        other = replace(task, partition=lambda i, n: data)
        return weights(ensemble_app(other, training=TRAINING, mods=mods)(ask(state), node()))

    assert same(trained(right, fault), trained(wrong))
    assert not same(trained(right, fault), trained(right))


def test_a_client_with_examples_of_one_class_flips_them_too(ask, node, weights, same):
    """The number of classes is that of the task, not of one client's data."""
    task = task_of(flat(1), torch.zeros(8).long(), bce)
    state = initial_state(task, 1, Seeds(0))
    flipped = weights(ensemble_app(task, training=TRAINING, mods=[LabelFlip()])(ask(state), node()))
    ones = task_of(flat(1), torch.ones(8).long(), bce)
    assert same(flipped, weights(ensemble_app(ones, training=TRAINING)(ask(state), node())))


@pytest.mark.parametrize(
    ("task", "fault", "message"),
    [
        (task_of(flat(2), Y), LabelFlip(classes=10), "classes must be 2, .* found 10"),
        (task_of(flat(9), Y, classes=3), LabelFlip(classes=9), "classes must be 3, .* found 9"),
        (task_of(flat(2), Y, classes=10), LabelFlip(), "score for each of 10 classes, found 2"),
        (task_of(flat(2), Y), LabelFlip(to=2), r"to must be in \[0, 2\), found 2"),
        (task_of(flat(2), Y), LabelFlip(to=-1), r"to must be in \[0, 2\), found -1"),
        (task_of(flat(2), Y), LabelFlip(keep=(5,)), r"keep must hold labels in \[0, 2\), found 5"),
        (task_of(flat(2), Y), LabelFlip(keep=(0, 1)), "a label must change, .* keeps all 2"),
        (task_of(flat(3), Y), LabelFlip(to=1, keep=(0, 2)), "a label must change"),
        (task_of(flat(1), torch.zeros(9).long()), LabelFlip(), "at least 2 classes, found no"),
        (task_of(flat(1), torch.randn(9), bce), LabelFlip(), "targets must be 0 or 1, found"),
        (task_of(flat(2), torch.rand(9, 2)), LabelFlip(), "number of classes must be known"),
        (task_of(flat(3), torch.eye(3), classes=3), LabelFlip(), "3 classes, found one for each"),
        (task_of(flat(2), torch.rand(9)), LabelFlip(), "needs whole numbers as labels"),
        (task_of(flat(2), Y + 1), LabelFlip(), "needs labels below 2, found 2"),
        (task_of(flat(2), Y, classifier=False), LabelFlip(), "must be a classification"),
        (task_of(flat(2), Y, classifier=False), LabelFlip(classes=2), "must be a classification"),
    ],
)
def test_a_label_flip_is_refused_where_it_cannot_act(task, fault, message):
    with pytest.raises(ConfigError, match=message):
        fault.check_task(TaskFacts(task, task.test))


def test_a_task_with_stated_classes_need_not_be_a_classifier():
    task = task_of(images, IMAGES, classes=3, classifier=False)
    LabelFlip().check_task(TaskFacts(task, task.test))


def test_labels_get_a_wider_dtype_where_theirs_is_too_small():
    labels = torch.zeros(3, dtype=torch.int8)
    assert LabelFlip()._flip(labels, 200, -100).tolist() == [199] * 3
