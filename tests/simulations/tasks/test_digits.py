import numpy as np
import pytest
import torch

from hqde_fl.clients.initial_state import initial_state
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks import Digits
from hqde_fl.simulations.tasks.partition import Dirichlet, Iid


@pytest.fixture(scope="module")
def task():
    return Digits().build(Dirichlet(0.5), 7)


def test_every_class_is_split_four_to_one(task):
    labels, (x, y) = Digits().labels(), task.test().tensors
    assert len(labels) + len(y) == 1797
    for label in range(10):
        train, test = int((labels == label).sum()), int((y == label).sum())
        assert test == round((train + test) / 5)
    assert x.shape == (359, 1, 8, 8)
    assert (x.min(), x.max(), x.dtype) == (0, 1, torch.float32)


def test_training_and_test_examples_are_disjoint(task):
    def rows(data):
        return {tuple(x.flatten().tolist()) for x, _ in data}

    trained = set().union(*(rows(task.partition(i, 4)) for i in range(4)))
    assert len(trained & rows(task.test())) == 0


def test_the_seed_changes_the_partitions_and_not_the_test_set(task):
    other = Digits().build(Dirichlet(0.5), 8)
    assert task.test() is other.test()
    one, two = task.partition(0, 10).tensors[0], other.partition(0, 10).tensors[0]
    assert not torch.equal(one[:5], two[:5])
    assert torch.equal(one, Digits().build(Dirichlet(0.5), 7).partition(0, 10).tensors[0])


def test_the_training_data_are_divided_once(task, monkeypatch):
    calls = []
    original = Iid.split
    monkeypatch.setattr(Iid, "split", lambda *arguments: calls.append(1) or original(*arguments))
    counting = Digits().build(Iid(), 12345)
    sizes = [len(counting.partition(i, 6)) for i in range(6)]
    assert sum(sizes) == 1438
    assert len(calls) == 1


def test_the_model_is_a_small_perceptron(task):
    state = initial_state(task, 1, Seeds(0))
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "hidden.weight": (64, 64),
        "hidden.bias": (64,),
        "output.weight": (10, 64),
        "output.bias": (10,),
    }
    assert Digits(hidden=5).network().hidden.out_features == 5
    with torch.no_grad():
        assert task.model()(task.test().tensors[0]).shape == (359, 10)


def test_impossible_requests_are_refused(task):
    with pytest.raises(ConfigError, match=r"Digits\.hidden must be >= 1, found 0"):
        Digits(hidden=0)
    with pytest.raises(ConfigError, match=r"partition must be in \[0, 3\), found 3"):
        task.partition(3, 3)


def test_labels_are_a_plain_array():
    assert isinstance(Digits().labels(), np.ndarray)
