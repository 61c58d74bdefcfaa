"""Tests that a fault or attack which cannot act on a task is refused before the run."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.batches import Arguments
from hqde_fl.clients.faults import FAULTS, Backdoor, BackdoorFault, WrongDtype, WrongShape
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.attacks import ATTACKS

Y = torch.arange(30) % 3


class State(nn.Module):
    """A model whose state is the given arrays, those of floating-point numbers as parameters."""

    def __init__(self, **arrays):
        super().__init__()
        for name, array in arrays.items():
            if array.is_floating_point() or array.is_complex():
                self.register_parameter(name, nn.Parameter(array))
            else:
                self.register_buffer(name, array)


def facts_of(model, x=None, y=Y, **more):
    data = TensorDataset(torch.rand(len(y), 1, 8, 8) if x is None else x, y)
    task = Task(model, lambda i, n: data, lambda: data, **more)
    return TaskFacts(task, task.test)


def images(channels=1, side=8, classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, classes))


def normalised():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))


def frozen():
    return images().requires_grad_(False)


def check(fault, facts):
    return fault.check_task(facts)


@pytest.mark.parametrize("name", [*FAULTS, *ATTACKS])
def test_all_faults_can_act_on_images_with_classes(name):
    registry = FAULTS if name in list(FAULTS) else ATTACKS
    fault = registry.build({"name": name, "z": 1.5} if name == "alie" else name)
    assert check(fault, facts_of(normalised)) is None


WEIGHTS = ["gaussian", "infinity", "nan", "scaling", "sign-flip", "zero", *ATTACKS]


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(
    "model",
    [
        partial(State, counter=torch.tensor(3)),
        partial(State, empty=torch.zeros(0, 4)),
        frozen,
        State,
    ],
    ids=["an integer", "no numbers", "frozen", "no arrays"],
)
def test_a_fault_that_changes_weights_needs_a_number_to_train(name, model):
    registry = FAULTS if name in list(FAULTS) else ATTACKS
    fault = registry.build({"name": name, "z": 1.5} if name == "alie" else name)
    with pytest.raises(ConfigError, match="needs a floating-point parameter with requires_grad"):
        check(fault, facts_of(model))
    check(fault, facts_of(partial(State, counter=torch.tensor(3), scale=torch.tensor(1.0))))
    check(fault, facts_of(partial(State, wave=torch.zeros(2, dtype=torch.complex64))))


def test_false_statistics_need_a_running_variance():
    with pytest.raises(ConfigError, match=r"must have a running variance, .*, found none"):
        check(FAULTS.build("statistics"), facts_of(images))


@pytest.mark.parametrize("name", ["partial", "garbage"])
def test_what_spoils_arrays_needs_one(name):
    with pytest.raises(ConfigError, match="must have at least 1 array, found none"):
        check(FAULTS.build(name), facts_of(State))
    check(FAULTS.build(name), facts_of(partial(State, counter=torch.tensor(3))))


@pytest.mark.parametrize("how", ["transpose", "truncate"])
def test_a_wrong_shape_needs_an_array_with_rows(how):
    one = {"a": torch.tensor(1.0)}
    for arrays in (one, one | {"b": torch.zeros(0)}, one | {"n": torch.arange(5)}):
        with pytest.raises(ConfigError, match="must have a weight array with at least 1 row"):
            check(WrongShape(how), facts_of(partial(State, **arrays)))
    check(WrongShape(how), facts_of(partial(State, a=torch.tensor(1.0), b=torch.zeros(1))))


def test_a_wrong_dtype_must_differ_from_the_models():
    doubles = partial(State, a=torch.zeros(2).double())
    with pytest.raises(
        ConfigError, match="not be that of all weights, found 'float64' and float64"
    ):
        check(WrongDtype("float64"), facts_of(doubles))
    check(WrongDtype("float32"), facts_of(doubles))
    check(WrongDtype("float64"), facts_of(partial(doubles, b=torch.zeros(2))))


FEATURES = {"x": torch.rand(30, 64), "model": partial(nn.Linear, 64, 3)}


@pytest.mark.parametrize(
    ("facts", "fault", "message"),
    [
        (facts_of(images), Backdoor(target=3), r"target must be in \[0, 3\), found 3"),
        (facts_of(images), Backdoor(size=9), r"at least 9 x 9 pixels, found .* 1, 8, 8\)"),
        (facts_of(**FEATURES), Backdoor(), r"needs images, found a batch of \(8, 64\)"),
        (
            facts_of(images, y=torch.zeros(30).long()),
            Backdoor(),
            "a backdoor to label 0 needs examples of another label",
        ),
        (facts_of(images, classifier=False), Backdoor(), "must be a classification"),
        (
            facts_of(partial(images, classes=1), y=(Y > 0).float()[:, None]),
            Backdoor(),
            r"one class number and a score for each class, found outputs \(8, 1\)",
        ),
        (
            facts_of(lambda: nn.Conv2d(1, 3, 1), y=torch.zeros(30, 8, 8).long()),
            Backdoor(),
            r"one class number .* targets \(8, 8, 8\)",
        ),
    ],
    ids=["target", "size", "no image", "one label", "regression", "one score", "pixels"],
)
def test_a_backdoor_needs_images_with_a_class_other_than_its_own(facts, fault, message):
    with pytest.raises(ConfigError, match=message):
        check(fault, facts)


def test_one_example_of_another_label_is_enough():
    y = torch.zeros(600).long()
    y[433] = 2
    check(Backdoor(), facts_of(images, x=torch.rand(600, 1, 8, 8), y=y))
    y[433] = 0
    with pytest.raises(DataError):
        check(Backdoor(), facts_of(images, x=torch.rand(600, 1, 8, 8), y=y))


def test_a_backdoor_acts_on_images_in_arguments():
    class Model(nn.Linear):
        def forward(self, image):
            return super().forward(image.flatten(1))

    def collate(examples):
        x, y = torch.utils.data.default_collate(examples)
        return Arguments(named={"image": x}), y

    check(Backdoor(), facts_of(partial(Model, 64, 3), collate=collate))


def test_a_fault_that_needs_no_examples_loads_none():
    def refuse(*_):
        raise AssertionError

    task = Task(normalised, refuse, refuse)
    for name in [*FAULTS, *ATTACKS]:
        registry = FAULTS if name in list(FAULTS) else ATTACKS
        if name != "label-flip" and not issubclass(registry[name], BackdoorFault):
            fault = registry.build({"name": name, "z": 1.5} if name == "alie" else name)
            check(fault, TaskFacts(task, task.test))
