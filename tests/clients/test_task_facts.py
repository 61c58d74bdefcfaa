"""Tests of the properties of a task that a model and a few examples show."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from hqde_fl.clients.batches import Arguments
from hqde_fl.clients.class_scores import DEFAULT_IGNORE_INDEX
from hqde_fl.clients.label_checks import check_labels, ignored_label
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError, TaskError

N = 20


def facts(
    outputs: Any,
    targets: torch.Tensor,
    loss: Any = functional.cross_entropy,
    collate: Any = None,
    **more: Any,
) -> TaskFacts:
    """Return the facts of a task whose model computes ``outputs(x)``."""

    class Model(nn.Module):
        def forward(self, x: Any) -> Any:
            return outputs(x)

    data = TensorDataset(torch.randn(len(targets), 4), targets)
    task = Task(Model, lambda i, n: data, lambda: data, loss, collate=collate, **more)
    return TaskFacts(task, task.test)


LABELS = torch.arange(N) % 2


@pytest.mark.parametrize(
    ("outputs", "targets", "classes"),
    [
        (lambda x: x.new_zeros(len(x), 7), LABELS, 7),
        (lambda x: SimpleNamespace(logits=x.new_zeros(len(x), 5)), LABELS, 5),
        (lambda x: {"logits": x.new_zeros(len(x), 5), "loss": 0.0}, LABELS, 5),
        (lambda x: x.new_zeros(len(x), 6, 3, 3), torch.zeros(N, 3, 3).long(), 6),
        (lambda x: x.new_zeros(len(x), 9, 50), torch.zeros(N, 9).long(), 50),
        (lambda x: x[:, 0], LABELS.float(), 2),
        (lambda x: x[:, :1], LABELS.float()[:, None], 2),
        (lambda x: x[:, :1], LABELS.bool(), 2),
        (lambda x: x.new_zeros(len(x), 1, 3, 3), torch.ones(N, 1, 3, 3), 2),
        (lambda x: x.new_zeros(len(x), 3), torch.zeros(N, 3), None),
        (lambda x: (x, x), LABELS, None),
        (lambda x: x.new_zeros(3), LABELS, None),
    ],
    ids=[
        "scores",
        "object",
        "mapping",
        "image",
        "text",
        "one score",
        "one score in a column",
        "one score, truth values",
        "one score for each pixel",
        "several labels",
        "tuple",
        "no batch",
    ],
)
def test_the_number_of_classes_is_inferred_from_outputs_where_possible(outputs, targets, classes):
    assert facts(outputs, targets).classes == classes
    assert facts(outputs, targets, classes=12).classes == 12


def test_stated_classes_need_neither_model_nor_data():
    def refuse(*_: object) -> Any:
        raise AssertionError

    task = Task(refuse, refuse, refuse, classes=3)
    assert TaskFacts(task, task.test).classes == 3
    with pytest.raises(ConfigError, match=r"classification, found Task\(classifier=False\)"):
        _ = TaskFacts(Task(refuse, refuse, refuse, classifier=False), refuse).classes
    with pytest.raises(ConfigError, match=r"Task\.classes must be >= 1, found 0"):
        Task(refuse, refuse, refuse, classes=0)


@pytest.mark.parametrize(
    ("outputs", "targets", "stated", "message"),
    [
        (lambda x: x[:, :2], LABELS, 10, "classes must be 2, as many as the task has, found 10"),
        (lambda x: x.new_zeros(len(x), 3), torch.zeros(N, 3), None, r"found outputs \(8, 3\) for"),
        (lambda x: (x, x), LABELS, None, r"found outputs tuple for .* give Task\(classes=\.\.\.\)"),
    ],
)
def test_unknown_or_contradicting_classes_are_refused(outputs, targets, stated, message):
    with pytest.raises(ConfigError, match=message):
        facts(outputs, targets).require_classes(stated)


def test_one_class_is_too_few():
    with pytest.raises(ConfigError, match="must have at least 2 classes, found 1"):
        facts(lambda x: x[:, :2], LABELS, classes=1).require_classes()


def test_a_stated_number_of_classes_is_used_where_it_cannot_be_inferred():
    assert facts(lambda x: (x, x), LABELS).require_classes(4) == 4


def test_one_score_per_target_requires_the_labels_0_and_1():
    rare = torch.zeros(1000)
    rare[577] = 1
    for labels in (rare, rare.long()):
        facts(lambda x: x[:, 0], labels).require_two_classes()
    with pytest.raises(ConfigError, match=r"must be 0 or 1, found -0\.5, 2"):
        facts(lambda x: x[:, 0], torch.tensor([2, -0.5])).require_two_classes()
    with pytest.raises(ConfigError, match="at least 2 classes, found no label but 0"):
        facts(lambda x: x[:, :1], torch.zeros(N).long()).require_two_classes()


def test_facts_leave_model_mode_and_generators_unchanged():
    """Each fact is computed once, and leaves the model, its mode and the generators unchanged."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    read: list[int] = []

    class Drawing(Dataset[Any]):
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            read.append(index)
            return torch.randn(4), index % 3

    task = Task(lambda: model, lambda i, n: Drawing(), Drawing)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    drawn = TaskFacts(task, Drawing, model)
    assert (drawn.classes, drawn.classes, drawn.width) == (3, 3, 3)
    assert torch.equal(torch.randn(2), expected)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert read == [0, 12, 25, 37, 50, 62, 75, 87]


def test_a_tasks_collate_may_return_arguments():
    def collate(examples: list[Any]) -> tuple[Any, Any]:
        x, y = torch.utils.data.default_collate(examples)
        return Arguments(named={"x": x}), y

    assert facts(lambda x: x[:, :3], LABELS, collate=collate).classes == 3


def test_errors_of_the_task_are_kept_as_failure():
    def broken(x: Any) -> Any:
        raise ValueError("out of memory")

    failing = facts(broken, LABELS)
    with pytest.raises(
        TaskError, match=r"the model \(Model\) raised ValueError: out of memory"
    ) as caught:
        _ = failing.classes
    assert failing.failure is caught.value
    fine = facts(lambda x: (x, x), LABELS)
    with pytest.raises(ConfigError):
        fine.require_classes()
    assert fine.failure is None
    empty = facts(lambda x: x, torch.zeros(0).long())
    with pytest.raises(ConfigError, match="at least 1 example is needed, found 0"):
        _ = empty.classes
    assert empty.failure is not None


def test_the_ignored_label_is_that_of_the_loss():
    def ignored(loss: Any) -> int:
        return ignored_label(Task(nn.Identity, lambda i, n: [], lambda: [], loss))

    assert ignored(functional.cross_entropy) == ignored(lambda o, t: o) == DEFAULT_IGNORE_INDEX
    assert ignored(nn.CrossEntropyLoss(ignore_index=255)) == 255
    assert ignored(partial(functional.cross_entropy, ignore_index=-1)) == -1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 0.5], r"it needs whole numbers as labels, found 0\.5"),
        ([0.0, float("nan")], "it needs whole numbers as labels, found nan"),
        ([0, 3], "it needs labels below 3, found 3"),
        ([0, -1], "it needs labels of at least 0, found -1; .* ignore_index"),
    ],
)
def test_labels_that_are_not_class_numbers_are_refused(labels, message):
    with pytest.raises(ConfigError, match=message):
        check_labels(torch.tensor(labels), 3, DEFAULT_IGNORE_INDEX, "it")
    check_labels(torch.tensor([0, 2, DEFAULT_IGNORE_INDEX]), 3, DEFAULT_IGNORE_INDEX, "it")
    check_labels(torch.tensor([True, False]), 2, DEFAULT_IGNORE_INDEX, "it")
