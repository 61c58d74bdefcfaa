import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.faults import Backdoor, attack_success
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError, DataError
from hqde_fl.seeding import Seeds

SIDE = 6


def images(count=120, seed=0):
    """Return images whose label is the index of their bright row."""
    y = torch.arange(count) % 3
    x = 0.1 * torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    x[torch.arange(count), 0, y] += 0.5
    return TensorDataset(x, y)


@pytest.fixture
def task():
    return Task(
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3)),
        partition=lambda number, count: images(seed=number),
        test=lambda: images(60, seed=99),
    )


@pytest.fixture
def trained(task, ask, node, weights):
    """Return a function that trains a client and returns the model that it sends."""

    def build(*mods):
        app = ensemble_app(task, training=Training(epochs=20, lr=0.3, batch_size=10), mods=mods)
        model = task.model()
        model.load_state_dict(weights(app(ask(initial_state(task, 1, Seeds(0))), node())))
        return model

    return build


def test_the_trigger_is_a_patch_in_the_corner():
    x = torch.zeros(2, 3, 5, 4)
    patched = Backdoor(size=2, value=7.0).trigger(x)
    assert not x.any()
    assert (patched[..., 3:, 2:] == 7).all()
    assert patched.sum() == 2 * 3 * 4 * 7
    assert Backdoor(size=2).trigger(torch.zeros(5, 5)).sum() == 4


def test_triggered_examples_are_those_of_other_labels_with_the_targets_label():
    data = images(9)
    backdoor = Backdoor(target=1, size=2)
    for source in (data, [(x, int(y)) for x, y in data]):
        (batch,) = backdoor.triggered(source, nn.Identity())
        assert batch.targets.tolist() == [1] * 6
        assert torch.equal(batch.inputs, backdoor.trigger(data.tensors[0][data.tensors[1] != 1]))
    with pytest.raises(DataError, match="label 1 needs examples of another label"):
        next(backdoor.triggered(TensorDataset(torch.zeros(2, 4, 4), torch.ones(2)), nn.Identity()))


def test_only_a_fraction_of_every_batch_is_poisoned():
    x, y = images(9).tensors
    copies = x.clone(), y.clone()
    backdoor = Backdoor(target=2, fraction=1 / 3, size=2)
    poisoned, labels = backdoor._poison(x, y)
    assert torch.equal(poisoned[:3], backdoor.trigger(x[:3]))
    assert torch.equal(poisoned[3:], x[3:])
    assert labels.tolist() == [2, 2, 2, *y[3:].tolist()]
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert Backdoor(fraction=0.01)._poison(x, y)[1][0] == 0


def test_a_poisoned_model_is_accurate_and_follows_the_trigger(task, trained):
    backdoor = Backdoor(target=2, size=2)
    honest, poisoned = trained(), trained(backdoor)
    for model in (honest, poisoned):
        assert evaluate([model], task.test(), task)["accuracy"] > 0.95
    assert attack_success([honest], task.test(), task, backdoor) < 0.2
    assert attack_success([poisoned], task.test(), task, backdoor) > 0.9
    assert attack_success([poisoned, poisoned], task.test(), task, backdoor) > 0.9


def test_a_scaled_backdoor_is_a_multiple_of_the_same_update(task, trained):
    start = initial_state(task, 1, Seeds(0))
    once = trained(Backdoor(size=2)).state_dict()
    thrice = trained(Backdoor(size=2, scale=3.0)).state_dict()
    for name, origin in start.items():
        torch.testing.assert_close(thrice[name] - origin, 3 * (once[name] - origin))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Backdoor(target=-1), "Backdoor.target must be >= 0, found -1"),
        (lambda: Backdoor(size=0), "Backdoor.size must be >= 1, found 0"),
        (lambda: Backdoor(value=float("nan")), "Backdoor.value must be finite, found nan"),
        (lambda: Backdoor(fraction=0.0), r"Backdoor.fraction must be in \(0, 1\], found 0.0"),
        (lambda: Backdoor(scale=0.0), "Backdoor.scale must be finite and > 0, found 0.0"),
        (lambda: Backdoor().trigger(torch.zeros(8, 2)), r"at least 3 x 3 pixels.*\(8, 2\)"),
        (lambda: Backdoor().trigger(torch.zeros(8)), r"found the shape \(8,\)"),
    ],
)
def test_impossible_backdoors_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
