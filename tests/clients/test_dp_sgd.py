"""DP-SGD on a client: its sensitivity, its noise, what it spends, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

pytest.importorskip("opacus")

from opacus.accountants import RDPAccountant

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.dp_sgd import descend_privately
from hqde_fl.clients.ensemble import EnsembleClient
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.initial_state import build_member, initial_state
from hqde_fl.clients.private_model import check_private_model
from hqde_fl.clients.sampled_steps import SampledSteps, SpentSteps
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training, train
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.privacy import SeededGaussian
from hqde_fl.privacy.example_level import DPSGD
from hqde_fl.privacy.noise_source import Floats, NoiseSource
from hqde_fl.seeding import Seeds


class NoNoise(NoiseSource):
    """Add nothing, and remember the sums."""

    def __init__(self) -> None:
        self.sums: list[Floats] = []

    def add_noise(
        self, values: Floats, deviation: float, sensitivity: float, rng: np.random.Generator
    ) -> Floats:
        self.sums.append(values.copy())
        return values


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3))


def blobs(examples: int = 40) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(examples) % 3
    return TensorDataset(torch.eye(3, 4)[y] + torch.randn(examples, 4, generator=generator), y)


def task_of(model: Callable[[], nn.Module] = dense, data: Any = None, **keys: Any) -> Task:
    data = blobs() if data is None else data
    return Task(model=model, partition=lambda number, count: data, test=lambda: data, **keys)


def trained(
    task: Task, data: Dataset[Any], source: NoiseSource, seed: int = 3, **keys: Any
) -> nn.Module:
    """Return a model after training by DP-SGD with the initial weights of seed 0."""
    model = build_member(task, Seeds(0), 0)
    settings = DPSGD(keys.pop("multiplier", 1.0), max_grad_norm=keys.pop("norm", 0.1), noise=source)
    training = Training(dp_sgd=settings, **{"batch_size": 10, "lr": 0.5} | keys)
    train(model, data, task, training, torch.Generator().manual_seed(seed))
    return model


def one_step(task: Task, data: Dataset[Any], norm: float = 0.1) -> Floats:
    """Return the sum of the clipped gradients of all examples at the initial weights."""
    source, size = NoNoise(), len(data)  # type: ignore[arg-type]
    trained(task, data, source, norm=norm, batch_size=size)
    (total,) = source.sums
    return total


def without(data: TensorDataset, number: int) -> TensorDataset:
    keep = [n for n in range(len(data)) if n != number]
    return TensorDataset(*(tensor[keep] for tensor in data.tensors))


class TestSensitivity:
    def test_an_example_moves_the_sum_by_at_most_the_norm(self) -> None:
        task, data = task_of(), blobs(12)
        total = one_step(task, data)
        for number in range(12):
            moved = np.linalg.norm(total - one_step(task, without(data, number)))
            assert moved <= 0.1 * (1 + 1e-6)
            assert moved > 0.09  # these gradients are longer

    def test_no_example_changes_what_the_others_count_for(self) -> None:
        """An example alone adds to the sum exactly what it adds in a batch."""
        task, data = task_of(), blobs(6)
        total = one_step(task, data, norm=50.0)
        alone = [
            one_step(task, TensorDataset(*(t[n : n + 1] for t in data.tensors)), 50.0)
            for n in range(6)
        ]
        np.testing.assert_allclose(total, np.sum(alone, axis=0), rtol=1e-4, atol=1e-5)

    def test_an_ignored_label_does_not_change_what_the_others_count_for(self) -> None:
        """A mean over the labels that count would."""
        x, y = blobs(6).tensors
        ignored = y.clone()
        ignored[0] = -100
        task = task_of()
        some = one_step(task, TensorDataset(x, ignored), 50.0)
        rest = one_step(task, TensorDataset(x[1:], y[1:]), 50.0)
        np.testing.assert_allclose(some, rest, rtol=1e-4, atol=1e-6)

    def test_a_gradient_that_is_not_finite_adds_nothing(self) -> None:
        x, y = blobs(6).tensors
        broken = x.clone()
        broken[2] = float("nan")
        task = task_of()
        total = one_step(task, TensorDataset(broken, y))
        assert np.isfinite(total).all()
        np.testing.assert_allclose(total, one_step(task, without(blobs(6), 2)), atol=1e-9)

    @pytest.mark.parametrize("kind", ["conv", "embedding", "own parameter", "unused layer"])
    def test_gradients_are_those_of_autograd(self, kind: str) -> None:
        task, data = _kinds(kind)
        total = one_step(task, data, norm=1e3)
        model = build_member(task, Seeds(0), 0).train()
        x, y = data.tensors
        (nn.functional.cross_entropy(model(x), y) * len(y)).backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        expected = torch.cat([gradient.flatten() for gradient in gradients]).double().numpy()
        np.testing.assert_allclose(total, expected, rtol=1e-3, atol=1e-5)


class _Scaled(nn.Module):
    """A layer with a parameter of its own, which opacus has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


def _scaled() -> nn.Module:
    return nn.Sequential(_Scaled(), nn.Linear(4, 3))


def _embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, 3))


def _kinds(kind: str) -> tuple[Task, TensorDataset]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(5) % 3
    x = blobs(5).tensors[0]
    model: Callable[[], nn.Module] = _Unused
    if kind == "conv":
        model, x = _conv, torch.randn(5, 1, 6, 6, generator=generator)
    elif kind == "embedding":
        model, x = _embedding, torch.randint(10, (5, 5), generator=generator)
    elif kind == "own parameter":
        model = _scaled
    data = TensorDataset(x, y)
    return task_of(model, data), data


class TestNoise:
    def test_it_has_the_deviation_asked_for(self) -> None:
        """With gradients of next to nothing, a step of SGD is the noise over the batch size."""
        task, data = (
            task_of(
                partial(nn.Linear, 2000, 3),
                TensorDataset(torch.zeros(20, 2000), torch.arange(20) % 3),
            ),
            None,
        )
        model = trained(
            task,
            task.partition(0, 1),
            SeededGaussian(),
            multiplier=2.0,
            norm=0.5,
            batch_size=20,
            lr=1.0,
        )
        start = build_member(task, Seeds(0), 0)
        step = (model.weight - start.weight).detach().flatten()  # type: ignore[union-attr,operator]
        assert data is None
        assert float(step.std()) == pytest.approx(2.0 * 0.5 / 20, rel=0.05)

    def test_every_example_is_taken_with_the_same_probability(self) -> None:
        taken: list[int] = []

        def collate(rows: list[Any]) -> Any:
            taken.append(len(rows))
            return torch.utils.data.default_collate(rows)

        data = blobs(40)
        rows = [(x, int(y)) for x, y in zip(*data.tensors, strict=True)]
        task = task_of(data=rows, collate=collate)
        trained(task, rows, SeededGaussian(), epochs=50)  # type: ignore[arg-type]
        sizes = np.array(taken)  # without the empty batches
        assert sizes.mean() == pytest.approx(10, abs=1.0)
        assert sizes.std() == pytest.approx((40 * 0.25 * 0.75) ** 0.5, abs=0.6)

    def test_a_step_without_examples_is_noise_alone(self) -> None:
        source = NoNoise()
        trained(task_of(), blobs(40), source, batch_size=1, epochs=2)
        assert len(source.sums) == 80
        assert any(not total.any() for total in source.sums)

    def test_a_seed_repeats_a_training_and_secure_noise_does_not(self) -> None:
        def weights(*source: NoiseSource, seed: int = 3) -> Tensor:
            (noise,) = source or (DPSGD(1.0).noise,)
            model = trained(task_of(), blobs(), noise, seed)
            return torch.cat([p.detach().flatten() for p in model.parameters()])

        assert torch.equal(weights(SeededGaussian()), weights(SeededGaussian()))
        assert not torch.equal(weights(SeededGaussian()), weights(SeededGaussian(), seed=4))
        assert not torch.equal(weights(), weights())

    @pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
    def test_it_learns(self, optimizer: str) -> None:
        task, data = task_of(), blobs(300)
        model = trained(
            task,
            data,
            SeededGaussian(),
            optimizer=optimizer,
            norm=1.0,
            epochs=5,
            batch_size=30,
            lr=0.05 if optimizer == "sgd" else 0.01,
            proximal_mu=0.01,
        )
        x, y = data.tensors
        before = build_member(task, Seeds(0), 0)
        assert _accuracy(model, x, y) > max(0.55, _accuracy(before, x, y))


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model.eval()(x).argmax(1) == y).float().mean())


def test_nothing_of_opacus_is_left_at_the_model() -> None:
    model = trained(task_of(), blobs(), SeededGaussian())
    for parameter in model.parameters():
        assert not {"grad_sample", "summed_grad", "_forward_counter"} & {
            name for name, value in vars(parameter).items() if value is not None
        }
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


class TestSteps:
    @pytest.mark.parametrize(
        ("examples", "batch", "epochs", "work", "rate", "steps"),
        [(100, 10, 2, 1.0, 0.1, 20), (100, 30, 1, 0.5, 0.3, 2), (5, 10, 3, 1.0, 1.0, 3),
         (1, 1, 1, 0.01, 1.0, 1)],
        ids=["epochs", "part of the work", "few examples", "one example"],
    )  # fmt: skip
    def test_as_many_as_without_privacy(
        self, examples: int, batch: int, epochs: int, work: float, rate: float, steps: int
    ) -> None:
        plan = SampledSteps.planned(DPSGD(1.0), examples, batch, epochs, work)
        assert (plan.rate, plan.steps, plan.noise_multiplier) == (rate, steps, 1.0)

    def test_epsilon_is_opacus_own(self) -> None:
        spent = SpentSteps().plus(SampledSteps(0.9, 0.1, 40), 2).plus(SampledSteps(0.9, 0.1, 20), 1)
        assert spent.steps == (SampledSteps(0.9, 0.1, 100),)
        own = RDPAccountant()
        own.history = [(0.9, 0.1, 100)]
        assert spent.epsilon(1e-5) == pytest.approx(own.get_epsilon(1e-5))

    def test_a_target_is_met_from_below(self) -> None:
        settings = DPSGD(target_epsilon=3.0, trainings=10)
        plan = SampledSteps.planned(settings, 200, 20, 1, 1.0)
        assert SpentSteps().plus(plan, 10).epsilon(1e-5) == pytest.approx(3.0, rel=0.01)
        assert SpentSteps().plus(plan, 10).epsilon(1e-5) <= 3.0


class TestClient:
    def test_what_is_spent_is_kept_and_reported(self, ask: Any, node: Any) -> None:
        task, context = task_of(), node()
        settings = DPSGD(1.0, noise=SeededGaussian())
        app = ensemble_app(task, training=Training(dp_sgd=settings, batch_size=10, epochs=2))
        state = initial_state(task, 1, Seeds(0))
        spent = []
        for number in (1, 2):
            metrics = app(ask(state, number), context).content["metrics"]
            assert "train-loss" not in metrics  # no noise protects it
            spent.append(metrics["epsilon"])
        expected = [SpentSteps((SampledSteps(1.0, 0.25, 8 * k),)).epsilon(1e-5) for k in (1, 2)]
        assert spent == pytest.approx(expected)

    def test_members_share_one_budget(self, ask: Any, node: Any) -> None:
        task = task_of()
        settings = DPSGD(1.0, noise=SeededGaussian())
        training = Training(dp_sgd=settings, batch_size=10)
        app = ensemble_app(task, members=3, training=training)
        reply = app(ask(initial_state(task, 3, Seeds(0))), node())
        expected = SpentSteps((SampledSteps(1.0, 0.25, 12),)).epsilon(1e-5)
        assert reply.content["metrics"]["epsilon"] == pytest.approx(expected)

    def test_a_training_beyond_the_target_is_refused_before_it_begins(
        self, ask: Any, node: Any
    ) -> None:
        task, context = task_of(), node()
        settings = DPSGD(target_epsilon=2.0, trainings=2)
        app = ensemble_app(task, training=Training(dp_sgd=settings, batch_size=10))
        state = initial_state(task, 1, Seeds(0))
        replies = [app(ask(state, number), context) for number in (1, 2)]
        assert replies[-1].content["metrics"]["epsilon"] <= 2.0
        with pytest.raises(TaskError, match=r"client 0: another training by DP-SGD needs epsilon"):
            app(ask(state, 3), context)

    def test_the_clients_data_are_not_evaluated_on(self, ask: Any, node: Any) -> None:
        task = task_of()
        app = ensemble_app(task, training=Training(dp_sgd=DPSGD(1.0)))
        with pytest.raises(TaskError, match="they are not evaluated on"):
            app(ask(initial_state(task, 1, Seeds(0)), 1, "evaluate"), node())

    def test_bagging_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="bagging repeats examples"):
            EnsembleClient(task_of(), training=Training(dp_sgd=DPSGD(1.0)), bagging=True)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(x))
        return out


class _MeanOfBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x - x.mean(0))
        return out


class _RunningMean(nn.Module):
    """A layer of the user's own that keeps a mean of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.mean(0)
        out: Tensor = self.layer(x - self.centre)
        return out


def _normalised(*, affine: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=affine), nn.Linear(4, 3))


class TestModels:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (partial(_normalised, affine=True), "without batch normalisation, found BatchNorm1d"),
            (partial(_normalised, affine=False), "without batch normalisation, found BatchNorm1d"),
            (_Tied, "without tied weights, found 'two.weight' and 'one.weight'"),
            (_MeanOfBatch, "does not depend on the rest of the batch"),
            (_RunningMean, "without statistics of the data|layer with buffers"),
        ],
        ids=["batch norm", "without weights", "tied", "mean of the batch", "own statistics"],
    )
    def test_those_that_it_cannot_train_are_refused_in_one_line(
        self, model: Callable[[], nn.Module], message: str
    ) -> None:
        task = task_of(model)
        fresh = FreshModel(partial(build_member, task, Seeds(0), 0))
        with pytest.raises(ConfigError, match=message) as caught:
            check_private_model(task, fresh, blobs(8))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("model", [dense, _Unused], ids=["dense", "unused layer"])
    def test_others_are_not(self, model: Callable[[], nn.Module]) -> None:
        task = task_of(model)
        fresh = FreshModel(partial(build_member, task, Seeds(0), 0))
        check_private_model(task, fresh, blobs(8))
        assert len(list(fresh.built.parameters())) > 0

    def test_examples_in_another_axis_are_found_in_training(self) -> None:
        """A layer that sees two rows for each example would clip each of them by itself."""

        class Halves(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(2, 3)

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.layer(x.reshape(-1, 2)).reshape(len(x), 2, 3).mean(1)
                return out

        with pytest.raises(TaskError, match="a gradient for each of 12 examples, found 24"):
            one_step(task_of(Halves), blobs(12))


def test_without_opacus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hqde_fl.clients.sampled_steps.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'hqde-fl\[dp-sgd\]'"):
        trained(task_of(), blobs(), SeededGaussian())
    assert "opacus" in sys.modules  # it is the check that found it missing


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "either noise_multiplier > 0 or target_epsilon > 0, found noise_multiplier = 0"),
        ({"noise_multiplier": 1.0, "target_epsilon": 1.0}, "either noise_multiplier"),
        ({"noise_multiplier": -1.0}, "DPSGD.noise_multiplier must be finite and >= 0, found -1"),
        ({"noise_multiplier": 1.0, "max_grad_norm": 0.0}, "max_grad_norm must be finite and > 0"),
        ({"noise_multiplier": 1.0, "delta": 0.0}, r"DPSGD.delta must be in \(0, 1\), found 0"),
        ({"noise_multiplier": 1.0, "trainings": -1}, "DPSGD.trainings must be >= 0, found -1"),
    ],
    ids=["neither", "both", "negative", "norm", "delta", "trainings"],
)
def test_impossible_settings(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DPSGD(**keys)


def test_the_loss_is_that_of_the_batches_taken() -> None:
    task, data = task_of(), blobs(12)
    model = build_member(task, Seeds(0), 0)
    settings = DPSGD(1.0, max_grad_norm=1e-9, noise=NoNoise())
    training = Training(dp_sgd=settings, batch_size=12)
    generator = torch.Generator().manual_seed(0)
    loss = descend_privately(
        model, data, task, training, generator, training.new_optimizer(model), 1.0
    )
    x, y = data.tensors
    expected = nn.functional.cross_entropy(build_member(task, Seeds(0), 0)(x), y)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
