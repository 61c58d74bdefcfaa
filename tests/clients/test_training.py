import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training, train
from hqde_fl.clients.training_hooks import idle, poison
from hqde_fl.errors import ConfigError, DataError
from hqde_fl.noise import RegularizationNoise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(task, training, seed=0, data=None, optimizer=None):
    with reproducible(5):
        model = task.model()
    data = task.partition(0, 3) if data is None else data
    loss = train(model, data, task, training, generator(seed), optimizer)
    return model, loss


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


class Examples(Dataset):
    """A data set with Python numbers as labels, which is read through a ``DataLoader``."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x, int(y)


class Constant(TensorDataset):
    """A ``TensorDataset`` with its own ``__getitem__``."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return torch.full_like(x, 7), y


def test_a_subclass_of_tensor_dataset_is_read_by_its_own_getitem():
    data = Constant(torch.randn(6, 2), torch.arange(6))
    for part in (data, data_subset(data, [0, 3])):
        (batch,) = iterate_batches(part, 6, nn.Linear(2, 2))
        assert batch.inputs.unique().tolist() == [7]


class Augmented(Examples):
    """A data set that draws from the global generators of NumPy and Python."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + np.random.randn() + random.random(), y


def test_a_data_sets_random_numbers_are_reproducible_and_leave_the_generators_unchanged(task):
    data = Augmented(task.partition(0, 3))
    states = random.getstate(), np.random.get_state()[1].tolist()
    one = trained(task, Training(), data=data)[0]
    assert states == (random.getstate(), np.random.get_state()[1].tolist())
    random.random(), np.random.randn()
    assert same(one, trained(task, Training(), data=data)[0])


def test_training_lowers_the_loss(task):
    data = task.partition(0, 3)
    model, first = trained(task, Training(lr=0.1))
    before = evaluate([task.model()], data, task)
    last = [train(model, data, task, Training(lr=0.1), generator(i)) for i in range(20)][-1]
    after = evaluate([model], data, task)
    assert last < first
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > 0.9


def test_the_loss_returned_is_the_mean_over_the_examples(task):
    data = task.partition(0, 3)
    flat = Task(lambda: nn.Linear(4, 3), task.partition, task.test)
    model, loss = trained(flat, Training(lr=1e-12, batch_size=4))
    assert loss == pytest.approx(evaluate([model], data, flat)["loss"], rel=0.05)
    assert loss == pytest.approx(trained(flat, Training(lr=1e-12, epochs=3))[1], rel=0.1)


def test_the_same_generator_gives_the_same_bits_and_another_does_not(task):
    training = Training(epochs=2, batch_size=4, momentum=0.9)
    assert same(trained(task, training)[0], trained(task, training)[0])
    assert not same(trained(task, training)[0], trained(task, training, seed=1)[0])


def test_the_process_thread_count_does_not_change_the_result():
    def network():
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    task = Task(network, lambda i, n: None, lambda: None)
    data = TensorDataset(torch.rand(144, 64, generator=generator()), torch.arange(144) % 10)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(trained(task, Training(epochs=10), data=data)[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same(*results)


def test_the_global_generator_is_neither_read_nor_changed(task):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, _ = trained(task, Training())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(one, trained(task, Training())[0])


def test_reproducible_restores_the_process_after_an_exception():
    state, threads = torch.get_rng_state(), torch.get_num_threads()

    def fail():
        with reproducible(3, threads=threads + 1):
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_used_optimizer_gives_the_result_of_a_new_one(task):
    training = Training(epochs=2, momentum=0.9, batch_size=4)
    fresh, _ = trained(task, training)
    model, _ = trained(task, training, seed=9)
    optimizer = training.new_optimizer(model)
    train(model, task.partition(1, 3), task, training, generator(4), optimizer)
    assert optimizer.state
    with reproducible(5):
        model.load_state_dict(task.model().state_dict())
    train(model, task.partition(0, 3), task, training, generator(), optimizer)
    assert same(model, fresh)


def test_the_proximal_term_is_fedprox(task):
    flat = Task(lambda: nn.Linear(4, 3), task.partition, task.test)
    x, y = task.partition(0, 3).tensors
    training = Training(epochs=4, batch_size=len(y), lr=0.1, proximal_mu=0.7, weight_decay=0.01)
    with reproducible(5):
        expected = flat.model()
    start = copy.deepcopy(expected)
    optimizer = training.new_optimizer(expected)
    for _ in range(4):
        optimizer.zero_grad()
        pairs = zip(expected.parameters(), start.parameters(), strict=True)
        distance = sum(((p - q.detach()) ** 2).sum() for p, q in pairs)
        (functional.cross_entropy(expected(x), y) + 0.7 / 2 * distance).backward()
        optimizer.step()
    model, _ = trained(flat, training)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model.weight, start.weight)


class Wave(nn.Module):
    """A complex weight and a frozen layer; the layer may be thawed from the second batch on."""

    def __init__(self, thaws=False):
        super().__init__()
        self.below = nn.Linear(4, 4).requires_grad_(False)
        self.wave = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))
        self.thaws, self.batches = thaws, 0

    def forward(self, x):
        if self.training:
            self.batches += 1
            self.below.requires_grad_(self.thaws and self.batches > 1)
        return (self.below(x).to(torch.complex64) @ self.wave).abs()


@pytest.mark.parametrize("thaws", [False, True])
def test_the_proximal_term_of_complex_frozen_and_thawed_weights(task, thaws):
    """Every trained weight is drawn to its value at the start, as the loss's own gradient says."""
    own = Task(lambda: Wave(thaws), task.partition, task.test)
    x, y = task.partition(0, 3).tensors
    training = Training(epochs=4, batch_size=len(y), lr=0.02, proximal_mu=3.0, momentum=0.5)
    with reproducible(5):
        expected = own.model()
    start = copy.deepcopy(expected)
    optimizer = training.new_optimizer(expected)
    for _ in range(4):
        optimizer.zero_grad()
        loss = functional.cross_entropy(expected(x), y)
        pairs = zip(expected.parameters(), start.parameters(), strict=True)
        distance = sum(((p - q.detach()).abs() ** 2).sum() for p, q in pairs if p.requires_grad)
        (loss + 3.0 / 2 * distance).backward()
        optimizer.step()
    model, _ = trained(own, training)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.wave, start.wave)
    assert torch.equal(model.below.weight, start.below.weight) is not thaws


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_frozen_weights_keep_their_bits_under_noise_and_decay(task, optimizer):
    own = Task(Wave, task.partition, task.test)
    training = Training(
        optimizer=optimizer,
        weight_decay=0.1,
        proximal_mu=0.5,
        regularization_noise=RegularizationNoise(0.5),
    )
    with reproducible(5):
        start = own.model()
    model, _ = trained(own, training)
    for name, tensor in start.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor) is name.startswith("below")
    assert bool((model.wave - start.wave).imag.any())


def test_any_map_style_data_set_can_be_trained_on(task):
    data = task.partition(0, 3)
    model, loss = trained(task, Training(), data=Examples(data))
    assert 0 < loss < 5
    assert same(model, trained(task, Training(), data=Examples(data))[0])
    assert evaluate([model], Examples(data), task, batch_size=4) == pytest.approx(
        evaluate([model], data, task)
    )


@pytest.mark.parametrize("wrap", [lambda data: data, Examples])
def test_a_last_batch_of_one_is_dropped(task, wrap):
    data = wrap(TensorDataset(*(t[:9] for t in task.partition(0, 3).tensors)))
    model, loss = trained(task, Training(batch_size=4), data=data)
    assert loss > 0
    assert int(model.state_dict()["1.num_batches_tracked"]) == 2


def test_a_single_example_can_be_trained_on(task):
    flat = Task(lambda: nn.Linear(4, 3), task.partition, task.test)
    data = TensorDataset(*(t[:1] for t in task.partition(0, 3).tensors))
    assert trained(flat, Training(), data=data)[1] > 0


def test_no_examples_are_an_error(task):
    empty = TensorDataset(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    with pytest.raises(DataError, match="at least 1 example"):
        trained(task, Training(), data=empty)
    with pytest.raises(DataError, match="at least 1 example"):
        evaluate([task.model()], empty, task)


def test_poison_changes_training_while_it_is_set(task):
    honest, _ = trained(task, Training())
    token = poison.set(lambda x, y: (x, 2 - y))
    try:
        assert not same(trained(task, Training())[0], honest)
    finally:
        poison.reset(token)
    assert same(trained(task, Training())[0], honest)


def test_an_idle_client_keeps_the_model_and_reports_a_loss(task):
    token = idle.set(True)
    try:
        model, loss = trained(task, Training(batch_size=64))
    finally:
        idle.reset(token)
    with reproducible(5):
        start = task.model()
    assert same(model, start)
    assert loss == pytest.approx(evaluate([start], task.partition(0, 3), task)["loss"])


def test_evaluation_does_not_depend_on_the_batches_and_restores_the_mode(task):
    model = task.model()
    data = task.test()
    whole = evaluate([model], data, task)
    assert set(whole) == {"loss", "accuracy"}
    assert evaluate([model], data, task, batch_size=7) == pytest.approx(whole, abs=1e-6)
    assert model.training
    model.eval()
    evaluate([model], data, task)
    assert not model.training


def test_several_models_vote_with_their_mean_probabilities(task):
    models = [task.model().eval() for _ in range(3)]
    x, y = task.test().tensors
    with torch.no_grad():
        mean = torch.stack([model(x).softmax(dim=1) for model in models]).mean(dim=0)
    values = evaluate(models, task.test(), task)
    assert values["accuracy"] == pytest.approx(float((mean.argmax(1) == y).float().mean()))
    assert values["loss"] == pytest.approx(float(functional.nll_loss(mean.log(), y)), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("threads", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1.0),
        ("proximal_mu", float("inf")),
        ("device", "gpu-please"),
    ],
)
def test_impossible_training_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"Training\.{name} must be .* found {value}"):
        Training(**{name: value})


def test_regularization_noise_perturbs_the_gradients_and_decays(task):
    plain, _ = trained(task, Training(lr=0.1))
    silent, _ = trained(task, Training(lr=0.1, regularization_noise=RegularizationNoise(0.0)))
    # it draws the same count of numbers at any scale, after the order of the examples is drawn
    assert same(plain, silent)
    steady, fading = (RegularizationNoise(0.5, decay=decay) for decay in (0.0, 20.0))
    noisy = Training(lr=0.1, batch_size=4, regularization_noise=steady)
    assert not same(trained(task, Training(lr=0.1, batch_size=4))[0], trained(task, noisy)[0])
    assert same(trained(task, noisy)[0], trained(task, noisy)[0])
    dying = Training(lr=0.1, batch_size=4, regularization_noise=fading)
    assert not same(trained(task, noisy)[0], trained(task, dying)[0])
    one_step = [Training(lr=0.1, regularization_noise=noise) for noise in (steady, fading)]
    models = [trained(task, training)[0] for training in one_step]
    assert same(*models)  # the first step has the full noise


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_state_of_an_optimizer_is_cleared_between_rounds(task, optimizer):
    training = Training(optimizer=optimizer, lr=0.05, epochs=3)
    model, loss = trained(task, training)
    assert evaluate([model], task.partition(0, 3), task)["loss"] < loss
    optimizer = training.new_optimizer(model)
    train(model, task.partition(0, 3), task, training, generator(), optimizer)
    with reproducible(5):
        model.load_state_dict(task.model().state_dict())
    train(model, task.partition(0, 3), task, training, generator(), optimizer)
    assert same(model, trained(task, training)[0])
