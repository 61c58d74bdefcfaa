"""Tests of the steps, learning rates and server momentum of a system's workers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from hqde_fl import create_hqde_system
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.system.settings import Settings
from hqde_fl.simulations.tasks import Digits
from hqde_fl.simulations.tasks.models import mlp
from hqde_fl.strategies.exploration import ExploringOptimizer
from hqde_fl.strategies.optimizers import SGD


class Normalized(nn.Module):
    """A linear model behind batch normalisation, which counts the steps that it was trained."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.norm(x))


def data(examples):
    x = torch.randn(examples, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] > 0).long())


def system_of(model, workers, training=None, aggregation=None, **options):
    return create_hqde_system(
        model,
        None,
        workers,
        training_config=training,
        aggregation_config=aggregation,
        engine="inline",
        show_progress=False,
        **options,
    )


@pytest.mark.parametrize(
    ("examples", "batch", "workers", "assignment", "steps"),
    [
        (128, 32, 1, "split", 4),
        (128, 32, 4, "split", 4),
        (128, 32, 4, "whole", 1),
        (128, 16, 8, "split", 8),
        (100, 32, 3, "split", 3),  # parts of 11, portions of 33 or 34; a last one alone is left out
        (96, 4, 8, "split", 6),  # parts of 2, the least, where 24 batches of 4 are split in 8
        (100, 200, 4, "split", 1),
        (100, 10, 4, "whole", 3),
    ],
)
def test_workers_take_the_steps_of_their_batch_assignment(
    examples, batch, workers, assignment, steps
):
    with system_of(Normalized, workers, {"batch_assignment": assignment}) as system:
        system.train(DataLoader(data(examples), batch), 2)
        counted = system.state_dicts()[0]["norm.num_batches_tracked"]
    assert int(counted) == 2 * steps


def test_a_loader_with_batches_of_one_example_stays_one():
    training = Settings.of(None, None, None, workers=4).worker_training(1, 40, 4)
    assert training.batch_size == 1
    assert training.lr == pytest.approx(1e-3 * math.sqrt(4))


@pytest.mark.parametrize(
    ("optimizer", "assignment", "batch", "workers", "factor"),
    [
        ("adamw", "split", 32, 4, 1),
        ("sgd", "split", 32, 4, 1),
        ("adamw", "whole", 32, 4, 2),
        ("sgd", "whole", 32, 4, 4),
        ("adamw", "split", 8, 16, 2),
        ("sgd", "split", 8, 16, 4),
        ("sgd", "whole", 1280, 4, 1),  # one step, as in one place
        ("adamw", "whole", 32, 1, 1),
    ],
)
def test_the_learning_rate_makes_up_for_steps_that_are_not_taken(
    optimizer, assignment, batch, workers, factor
):
    config = {"optimizer": optimizer, "learning_rate": 0.01, "batch_assignment": assignment}
    settings = Settings.of(None, None, config, workers=workers)
    assert settings.worker_training(batch, 1280, workers).lr == pytest.approx(0.01 * factor)
    plain = Settings.of(None, None, config | {"scaling_rule": "none"}, workers=workers)
    assert plain.worker_training(batch, 1280, workers).lr == 0.01
    assert plain.server_optimizer == SGD()


def test_adamw_gets_server_momentum_unless_a_server_optimizer_is_given():
    assert Settings.of(None, None, None, workers=4).server_optimizer == SGD(
        momentum=0.5, nesterov=True
    )
    assert Settings.of(None, None, None, workers=1).server_optimizer == SGD()
    assert Settings.of(None, None, {"optimizer": "sgd"}, workers=4).server_optimizer == SGD()
    chosen = Settings.of(None, {"server_optimizer": "sgd"}, None, workers=4)
    assert (chosen.server_optimizer, chosen.server_gain) == (SGD(), 1)
    noisy = Settings.of(None, {"noise_scale": 0.1}, None, workers=16).server_optimizer
    assert isinstance(noisy, ExploringOptimizer)
    assert noisy.inner == SGD(momentum=0.75, nesterov=True)


@pytest.mark.parametrize("assignment", ["split", "whole"])
@pytest.mark.parametrize("server", [{}, {"server_optimizer": "sgd"}])
def test_adamw_decays_weights_as_much_in_an_epoch_as_one_place(assignment, server):
    config = {"weight_decay": 0.1, "batch_assignment": assignment}
    settings = Settings.of(None, server, config, workers=4)
    training = settings.worker_training(32, 1280, 4)
    steps = 320 / training.batch_size
    decay = steps * training.lr * training.weight_decay * settings.server_gain
    assert decay == pytest.approx(40 * 1e-3 * 0.1)


def test_adam_has_its_decay_in_the_gradient_which_is_as_given():
    config = {"optimizer": "adam", "weight_decay": 0.1, "batch_assignment": "whole"}
    training = Settings.of(None, None, config, workers=4).worker_training(32, 1280, 4)
    assert (training.weight_decay, training.lr) == (0.1, pytest.approx(2e-3))


def test_workers_of_sgd_that_split_one_batch_are_one_place():
    model = nn.Linear(4, 2)
    examples = data(64)

    def linear():
        copy = nn.Linear(4, 2)
        copy.load_state_dict(model.state_dict())
        return copy

    config = {"optimizer": "sgd", "learning_rate": 0.3}
    codec = {"quantization_config": {"name": "identity"}}
    with system_of(linear, 4, config, {"rule": "mean"}, **codec) as system:
        system.train(DataLoader(examples, 64), 1)
        found = system.state_dicts()[0]["weight"]
    x, y = examples.tensors
    functional.cross_entropy(model(x), y).backward()
    torch.testing.assert_close(found, (model.weight - 0.3 * model.weight.grad).detach())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_assignment", "splits", "batch_assignment.*'splits': did you mean 'split'"),
        ("batch_assignment", 4, "batch_assignment.*'4': known: split, whole"),
        ("scaling_rule", "linear", "scaling_rule.*'linear': known: auto, none"),
        ("scaling_rule", None, "scaling_rule.*'None'"),
    ],
)
def test_an_unknown_value_names_its_key(key, value, message):
    with pytest.raises(UnknownNameError, match=message):
        create_hqde_system(Normalized, training_config={key: value})


def test_replicated_batches_are_refused_with_the_way_to_an_ensemble():
    with pytest.raises(ConfigError, match=r"'replicate' would train.*set 'members'"):
        create_hqde_system(Normalized, training_config={"batch_assignment": "replicate"})


def test_eight_workers_learn_digits_as_fast_as_one_place():
    task = Digits()
    examples = task.examples(torch.arange(len(task.labels())))
    with system_of(lambda: mlp(64, 64, 10), 8, {"batch_assignment": "whole"}) as system:
        system.train(DataLoader(examples, 32), 10)
        values = system.evaluate(DataLoader(task.test(), 500))
    assert values["accuracy"] > 0.9  # .86 or less without the scaling rule
    assert values["ece"] < 0.2  # more than .6 without
