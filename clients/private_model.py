"""Check before a run whether DP-SGD can train a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.batches import call_model, logits_of
from hqde_fl.clients.data_forms import example_total
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.sampled_steps import require_opacus
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.updates.roles import roles_of

TOLERANCE = 1e-3
"""Greatest difference of an output for an example alone and in a batch, relative to all outputs."""


def check_private_model(task: Task, fresh: FreshModel, data: Dataset[Any]) -> None:
    """Raise ``ConfigError`` if DP-SGD cannot train a task's model.

    It needs layers that opacus knows or can differentiate by example, no statistics of the data, no
    weights with two names, and outputs that depend on their own example alone.

    Parameters
    ----------
    task : Task
        The task.
    fresh : FreshModel
        Its model. Buffers change, weights do not.
    data : Dataset
        A few examples.
    """
    require_opacus()
    from opacus.grad_sample import GradSampleModule
    from opacus.validators import ModuleValidator

    model = fresh.load(fresh.built.state_dict())
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            raise _unfit(f"a model without batch normalisation, found {_named(name, layer)}")
    for entry, first in roles_of(model).tied.items():
        raise _unfit(f"a model without tied weights, found {entry!r} and {first!r}")
    model.train()
    errors = [*ModuleValidator.validate(model), *GradSampleModule.validate(model)]
    if errors:
        raise _unfit(str(errors[0]).strip().splitlines()[0])
    with reproducible(0), torch.no_grad():
        _check_buffers(task, model, data)
        _check_independence(task, model.eval(), data)


def _check_buffers(task: Task, model: nn.Module, data: Dataset[Any]) -> None:
    """Raise ``ConfigError`` if a model that is trained keeps numbers in a buffer of its own."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    _outputs(task, model, data)
    for name, buffer in model.named_buffers():
        known = before.get(name)
        if buffer.is_floating_point() and (known is None or not torch.equal(buffer, known)):
            raise _unfit(f"a model without statistics of the data, found {name!r}")


def _check_independence(task: Task, model: nn.Module, data: Dataset[Any]) -> None:
    """Raise ``ConfigError`` if an output changes with the other examples of its batch."""
    examples = range(min(4, example_total(data)))
    together, *alone = (
        _outputs(task, model, data_subset(data, chosen))
        for chosen in ([*examples], *([number] for number in examples))
    )
    if together is None or len(together) != len(examples):
        return
    scale = float(together.abs().max())
    for number, output in enumerate(alone):
        row = together[number : number + 1]
        if output is None or output.shape != row.shape:
            continue  # such as sequences that are padded to the longest of a batch
        if float((output - row).abs().max()) > TOLERANCE * scale:
            raise _unfit(
                "a model whose output for an example does not depend on the rest of the batch"
            )


def _outputs(task: Task, model: nn.Module, data: Dataset[Any]) -> Tensor | None:
    """Return a model's scores for a data set as one batch; None if they are no floating tensor."""
    (batch,) = iterate_batches(data, example_total(data), model, collate=task.collate)
    scores = logits_of(call_model(model, batch.inputs))
    is_scores = isinstance(scores, Tensor) and scores.ndim > 0 and scores.is_floating_point()
    return scores if is_scores and scores.numel() else None


def _named(name: str, layer: nn.Module) -> str:
    return f"{type(layer).__name__} {name!r}" if name else type(layer).__name__


def _unfit(what: str) -> ConfigError:
    return ConfigError(f"clients.dp-sgd needs {what}")
