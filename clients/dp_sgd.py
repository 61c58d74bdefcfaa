"""Local training by DP-SGD: clipped gradients of single examples, and noise on their sum.

Opacus computes the gradients of single examples. Their sum is taken in float64, and its noise comes
from a noise source.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.batches import BatchWithoutTargets, call_model
from hqde_fl.clients.data_forms import example_total
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.sampled_steps import SampledSteps
from hqde_fl.clients.scoring import NoTargetsError, Scoring
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import backward
from hqde_fl.clients.training_hooks import Poison, poison
from hqde_fl.clients.training_settings import Training
from hqde_fl.clients.user_code import user_code
from hqde_fl.errors import TaskError
from hqde_fl.privacy.noise_source import NoiseSource
from hqde_fl.privacy.secure_bits import secure_words, uniform


def descend_privately(
    model: nn.Module,
    data: Dataset[Any],
    task: Task,
    training: Training,
    generator: torch.Generator,
    optimizer: Optimizer,
    work: float,
) -> float:
    """Train a model in place by DP-SGD, and return the mean loss, which is not private.

    The parameters are those of ``training.train``. Buffers of the model are left as they are.
    """
    settings = training.dp_sgd
    assert settings is not None
    examples, source = example_total(data), settings.noise
    plan = SampledSteps.planned(
        settings, examples, training.batch_size, training.epochs, work, training.steps
    )
    rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
    if not source.seeded:  # what the model draws is not to be known either
        torch.default_generator.manual_seed(int(secure_words(1)[0] >> np.uint64(1)))
    change = poison.get()
    if isinstance(change, Poison):
        change.begin(task, data, model)
    mu, noise = training.proximal_mu, training.regularization_noise
    anchors = {p: p.detach().clone() for p in model.parameters() if mu and p.requires_grad}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    scoring, total, seen = Scoring(task), 0.0, 0
    model.train()
    with user_code("DP-SGD's preparation of the model"):
        hooked = GradSampleModule(model, loss_reduction="sum")
    private = _NoisyOptimizer(
        optimizer, plan.noise_multiplier, settings.max_grad_norm, plan.rate * examples, source, rng
    )
    try:
        for step in range(plan.steps):
            draws = rng.random(examples) if source.seeded else uniform(secure_words, examples)
            chosen = np.flatnonzero(draws < plan.rate).tolist()
            private.zero_grad()
            if chosen:
                subset = data_subset(data, chosen)
                (batch,) = iterate_batches(subset, len(chosen), model, collate=task.collate)
                x, y = batch.inputs, batch.targets
                if change is not None:
                    x, y = change(x, y)
                loss, weight = _summed_loss(scoring, call_model(model, x), y, len(chosen))
                if loss is not None:
                    with warnings.catch_warnings():  # the first layer's inputs need no gradient
                        warnings.filterwarnings("ignore", message="Full backward hook is firing")
                        backward(loss, task)
                    total, seen = total + float(loss.detach()), seen + weight
            _complete(private, len(chosen))
            private.pre_step()
            for parameter in private.params:
                assert parameter.grad is not None
                if mu:
                    parameter.grad.add_(parameter.detach() - anchors[parameter], alpha=mu)
                if noise is not None:
                    parameter.grad.add_(noise.draw_noise(parameter.grad, step, generator))
            with user_code("the optimiser's step"):
                optimizer.step()
    finally:
        private.zero_grad()
        hooked.cleanup()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    if not seen:
        _require_targets(scoring, data, task, model, training)
    return total / max(1, seen)


class _NoisyOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser with sums in float64, and noise of a noise source."""

    def __init__(
        self,
        optimizer: Optimizer,
        noise_multiplier: float,
        max_grad_norm: float,
        batch_size: float,
        source: NoiseSource,
        rng: np.random.Generator,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=batch_size,
        )
        self._source, self._rng = source, rng

    def clip_and_accumulate(self) -> None:
        """Store the sum of the clipped gradients; an example whose is not finite adds nothing."""
        squares = [s.flatten(1).double().square().sum(1) for s in self.grad_samples]
        norms = torch.stack([square.cpu() for square in squares]).sum(0).sqrt()
        factors = (self.max_grad_norm / norms).clamp(max=1.0)
        factors = torch.where(norms.isfinite(), factors, 0.0)
        for parameter, sample in zip(self.params, self.grad_samples, strict=True):
            rows = sample.flatten(1).double().nan_to_num(0.0, 0.0, 0.0)
            parameter.summed_grad = factors.to(rows) @ rows

    def add_noise(self) -> None:
        """Store the sum with noise as the gradient."""
        sums = [parameter.summed_grad.cpu() for parameter in self.params]
        noised = self._source.add_noise(
            torch.cat(sums).numpy(),
            self.noise_multiplier * self.max_grad_norm,
            self.max_grad_norm,
            self._rng,
        )
        parts = torch.from_numpy(noised).split([len(part) for part in sums])
        for parameter, part in zip(self.params, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter)


def _summed_loss(
    scoring: Scoring, outputs: Any, targets: Any, size: int
) -> tuple[Tensor | None, int]:
    """Return the sum of the losses of single examples, and how many have one.

    The loss of a batch might let one example change what another counts for, as a mean over the
    targets that are not ignored does. None if no example has one.
    """
    losses = [
        scoring.loss(output, target, trains=True).reshape(())
        for output, target in zip(_singles(outputs, size), _singles(targets, size), strict=True)
        if scoring.weight(target, 1)
    ]
    return (torch.stack(losses).sum() if losses else None), len(losses)


def _singles(value: Any, size: int) -> list[Any]:
    """Return a batch as batches of one example each.

    Raises
    ------
    TaskError
        If a part of it does not have an example in each of ``size`` rows.
    """
    if isinstance(value, Tensor):
        if value.ndim and len(value) == size:
            return list(value.split(1))
        raise TaskError(
            f"DP-SGD needs outputs and targets with a row for each of {size} examples, "
            f"found a tensor {tuple(value.shape)}"
        )
    if isinstance(value, Mapping):
        parts = {key: _singles(entry, size) for key, entry in value.items()}
        kind = type(value)
        plain: Any = kind if kind in (dict, BatchWithoutTargets) else None
        rows = [{key: part[row] for key, part in parts.items()} for row in range(size)]
        return [plain(row) if plain else cast(Any, kind)(**row) for row in rows]
    if isinstance(value, tuple | list):
        columns = [_singles(entry, size) for entry in value]
        rows_ = zip(*columns, strict=True)
        if hasattr(value, "_fields"):
            return [type(value)(*row) for row in rows_]
        return [type(value)(row) for row in rows_]
    raise TaskError(f"DP-SGD needs tensors as outputs and targets, found a {type(value).__name__}")


def _complete(optimizer: DPOptimizer, size: int) -> None:
    """Give zeros to weights without a gradient; raise ``TaskError`` for those of other sizes."""
    for parameter in optimizer.params:
        sample = getattr(parameter, "grad_sample", None)
        if sample is None:
            parameter.grad_sample = parameter.new_zeros((size, *parameter.shape))
        elif not isinstance(sample, Tensor) or len(sample) != size:
            found = len(sample) if isinstance(sample, Tensor) else "several"
            raise TaskError(
                f"DP-SGD needs a gradient for each of {size} examples, found {found}: does the "
                "model put examples together, or call a layer in several passes?"
            )


def _require_targets(
    scoring: Scoring, data: Dataset[Any], task: Task, model: nn.Module, training: Training
) -> None:
    """Raise ``NoTargetsError`` if no example of a data set has a target that counts."""
    for batch in iterate_batches(data, training.batch_size, model, collate=task.collate):
        if scoring.weight(batch.targets, batch.size):
            return
    raise NoTargetsError(task)
