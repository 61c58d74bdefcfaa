"""What a task's functions may return, and how their errors read."""

from __future__ import annotations

import math
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hqde_fl.clients.batches import Arguments, call_model
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import batch_loss, load_partition, metric_values
from hqde_fl.clients.task_check import check_clients, check_model, check_test_set
from hqde_fl.clients.training import Training
from hqde_fl.clients.user_code import description, user_code
from hqde_fl.errors import ConfigError, HQDEError, TaskError
from hqde_fl.seeding import Seeds

OUTPUTS, TARGETS = torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64)


def examples(number: int = 0, count: int = 1, size: int = 6) -> TensorDataset:
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(number))
    return TensorDataset(x, torch.arange(size) % 3)


def linear() -> nn.Module:
    return nn.Linear(8, 3)


def task_with(value: Any) -> Task:
    return Task(linear, examples, examples, metrics={"own": lambda outputs, targets: value})


@pytest.mark.parametrize(
    "value",
    [
        *(0.5, np.float32(0.5), np.array(0.5), np.array([[0.5]]), Decimal("0.5")),
        *(torch.tensor(0.5), torch.tensor([0.5]), torch.tensor(0.5, dtype=torch.float16)),
    ],
)
def test_a_metric_may_return_any_kind_of_number(value: Any) -> None:
    task = task_with(value)
    (found,) = metric_values("own", task, OUTPUTS, TARGETS).values()
    assert type(found) is float
    assert evaluate([linear()], examples(), task)["own"] == 0.5


@pytest.mark.parametrize("value", [True, 1, np.int64(1), np.bool_(True), torch.tensor(True)])
def test_a_metric_may_return_a_whole_number(value: Any) -> None:
    assert metric_values("own", task_with(value), OUTPUTS, TARGETS) == {"own": 1.0}


@pytest.mark.parametrize("value", [math.nan, torch.tensor(math.nan), np.float64("nan")])
def test_a_metric_may_be_nan(value: Any) -> None:
    assert math.isnan(evaluate([linear()], examples(), task_with(value))["own"])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "found None: does the function return it?"),
        ("high", "found 'high'"),
        (1j, "found a complex"),
        (torch.ones(3), r"found a Tensor \(3,\) float32: take the mean"),
        (np.ones(3), "found a ndarray.*: take the mean"),
        ([0.5], r"found \[0.5\]"),
        (torch.tensor(1j), "found a complex"),
    ],
)
def test_a_metric_that_returns_no_number_is_named(value: Any, found: str) -> None:
    with pytest.raises(TaskError, match=f"^metric 'own' must return one number, {found}") as caught:
        metric_values("own", task_with(value), OUTPUTS, TARGETS)
    assert "test_task_calls.py, line" in str(caught.value)


def test_a_metric_may_return_values_by_name() -> None:
    task = task_with({"f1": torch.tensor(0.5), "recall": np.float32(0.25)})
    assert metric_values("own", task, OUTPUTS, TARGETS) == {"f1": 0.5, "recall": 0.25}
    means = evaluate([linear()], examples(), task)
    assert (means["f1"], means["recall"], "own" in means) == (0.5, 0.25, False)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"f1": None}, "one number for each name, found None"),
        ({"f1": torch.ones(3)}, r"one number for each name, found a Tensor \(3,\)"),
        ({3: 0.5}, "values by name, and none named 'loss', found 3"),
        ({"loss": 0.5}, "values by name, and none named 'loss', found 'loss'"),
    ],
)
def test_a_metric_whose_values_by_name_are_no_numbers_is_named(value: Any, found: str) -> None:
    with pytest.raises(TaskError, match=f"^metric 'own' must return {found}"):
        metric_values("own", task_with(value), OUTPUTS, TARGETS)


def test_an_error_names_the_function_that_a_partial_or_a_class_calls() -> None:
    class Loss:
        def __call__(self, outputs: Any, targets: Any) -> Any:
            return float(outputs[0] + targets)

    def loss(scale: float, outputs: Any, targets: Any) -> Any:
        return [scale]

    with pytest.raises(TaskError, match=r"found \[2.0\] \(.*loss: test_task_calls.py, line"):
        batch_loss(Task(linear, examples, examples, partial(loss, 2.0)), OUTPUTS, TARGETS)
    with pytest.raises(TaskError, match=r"the loss raised .*test_task_calls.py, .* in __call__\)"):
        batch_loss(Task(linear, examples, examples, Loss()), OUTPUTS, TARGETS)


def test_an_error_of_plain_layers_names_the_layer_and_the_inputs() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(TaskError) as caught:
        call_model(model, torch.ones(2, 3))
    line = str(caught.value)
    assert line.startswith("the model (Sequential) raised RuntimeError: mat1 and mat2")
    assert line.endswith(" in its layer '1.0' (Linear) for inputs (2, 3) float32")


def test_inputs_are_described_by_their_shapes() -> None:
    x, y = torch.ones(2, 3), torch.ones(2, dtype=torch.int64)
    assert description(Arguments((x,), {"mask": y})) == "[(2, 3) float32, mask (2,) int64]"
    assert description({"x": x, "y": [y]}) == "[x (2, 3) float32, y [(2,) int64]]"
    assert description(("cat", "dog", "cow", "hen")) == "('cat', 'dog', 'cow', ...)"
    assert description(object()) == "of type object"


def test_errors_of_hqde_fl_and_interruptions_pass_unchanged() -> None:
    own = ConfigError("a bound")
    for error in (own, KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, user_code("the loss"):
            raise error
        assert caught.value is error


def test_a_long_message_does_not_hide_the_place() -> None:
    with pytest.raises(TaskError) as caught, user_code("the loss"):
        raise ValueError("x" * 10_000 + "\nand more")
    line = str(caught.value)
    assert len(line) < 500
    assert "\n" not in line
    assert "test_task_calls.py, line" in line


def test_a_data_set_may_be_a_list() -> None:
    pairs = [(torch.ones(8), 1)] * 4
    assert load_partition(Task(linear, lambda *_: pairs, examples), 0, 1) is pairs


class Counting(nn.Linear):
    """Counts the models that are built, and draws random numbers in its forward pass."""

    built = 0

    def __init__(self) -> None:
        super().__init__(8, 3)
        Counting.built += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.dropout(x))


def test_the_check_builds_one_model_and_changes_nobodys_random_numbers() -> None:
    Counting.built = 0
    task = Task(Counting, examples, examples)
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    with torch.no_grad():
        model = check_model(task, Seeds(0))
        check_test_set(task, model, 3)
        check_clients(task, model, Training(), 2)
    assert Counting.built == 1
    assert (torch.rand(1), np.random.rand()) == expected


def test_a_primary_metric_that_is_not_measured_is_refused() -> None:
    for name in ("loss", "attack-success", "accuracy-7"):
        task = Task(linear, examples, examples, primary=name)
        check_test_set(task, check_model(task, Seeds(0)))
    task = Task(linear, examples, examples, primary="acuracy")
    with pytest.raises(ConfigError, match="primary metric 'acuracy': did you mean 'accuracy'"):
        check_test_set(task, check_model(task, Seeds(0)))


@pytest.mark.parametrize("sizes", [(0, 0, 6), (1, 0, 6), (1, 1, 0), (1,)])
def test_empty_partitions_and_single_examples_are_passed_over(sizes: tuple[int, ...]) -> None:
    def normalised() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))

    task = Task(normalised, lambda number, _: examples(size=sizes[number]), examples)
    check_clients(task, check_model(task, Seeds(0)), Training(), len(sizes))


def test_no_examples_at_all_are_refused() -> None:
    task = Task(linear, lambda *_: examples(size=0), examples)
    with pytest.raises(ConfigError, match="no examples for any of 4 clients"):
        check_clients(task, check_model(task, Seeds(0)), Training(), 4)


def test_only_a_batch_of_a_huge_data_set_is_read() -> None:
    read: list[int] = []

    class Huge:
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return torch.ones(8), 1

    task = Task(linear, lambda *_: Huge(), Huge)  # type: ignore[arg-type, return-value]
    model = check_model(task, Seeds(0))
    check_test_set(task, model)
    check_clients(task, model, Training(batch_size=4096), 100)
    assert len(read) == 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": nn.Linear(8, 3)}, "Task.model must be a class or function"),
        ({"model": None}, "Task.model must be a class or function"),
        ({"partition": [examples()]}, "Task.partition must be a function"),
        ({"test": examples()}, "Task.test must be a function"),
        ({"loss": nn.CrossEntropyLoss}, r"the class CrossEntropyLoss: give CrossEntropyLoss\(\)"),
        ({"loss": "mse"}, "Task.loss must be a function"),
        ({"metrics": [len]}, "Task.metrics must map names to functions, found a list"),
        ({"metrics": {"f1": 0.5}}, "metric 'f1' must be a function"),
    ],
)
def test_a_task_of_the_wrong_parts_is_refused(fields: dict[str, Any], message: str) -> None:
    parts = {"model": linear, "partition": examples, "test": examples} | fields
    with pytest.raises(HQDEError, match=message):
        Task(**parts)
