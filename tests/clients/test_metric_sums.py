"""Metrics with several values, and the accuracy of each class."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.metric_sums import MetricSums
from hqde_fl.clients.task import Task, accuracy, class_accuracy
from hqde_fl.errors import TaskError


def test_means_are_over_the_batches_that_have_a_metric() -> None:
    sums = MetricSums()
    sums.add({"own": {"a": 1.0, "b": 4.0}}, 3)
    sums.add({"own": {"a": 2.0}}, 1)
    assert sums.means == {"a": (3 * 1.0 + 2.0) / 4, "b": 4.0}


def test_two_metrics_with_a_value_of_one_name_are_refused() -> None:
    with pytest.raises(TaskError, match="metric 'two' returns a value 'f1', which 'one' has"):
        MetricSums().add({"one": {"f1": 1.0}, "two": {"f1": 1.0}}, 1)


@pytest.mark.parametrize("members", [1, 2])
def test_the_accuracy_of_each_class_is_exact_whatever_the_batches(members: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(50, 4, generator=generator)
    y = torch.randint(3, (50,), generator=generator)
    y[::7] = -100
    model = nn.Linear(4, 5)  # no example has class 3 or 4
    task = Task(
        model=lambda: model,
        partition=lambda number, count: TensorDataset(x, y),
        test=lambda: TensorDataset(x, y),
        metrics={"accuracy": accuracy, "class-accuracy": class_accuracy},
    )
    found = evaluate([model] * members, TensorDataset(x, y), task, batch_size=8)
    predicted = model(x).argmax(dim=1).tolist()
    expected = {}
    for number in range(3):
        hits = [
            p == number for p, label in zip(predicted, y.tolist(), strict=True) if label == number
        ]
        expected[f"class-accuracy-{number}"] = pytest.approx(sum(hits) / len(hits))
    least = min(value.expected for value in expected.values())
    expected["class-accuracy-worst"] = pytest.approx(least)
    assert {name: v for name, v in found.items() if name.startswith("class-")} == expected


def test_outputs_that_are_no_class_scores_have_no_accuracy_by_class() -> None:
    with pytest.raises(TaskError, match="needs class scores"):
        class_accuracy(torch.ones(3), torch.zeros(3, dtype=torch.int64))
