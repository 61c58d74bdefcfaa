"""Local training of one client's model, reproducible to the bit."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches, shuffled_batches
from hqde_fl.clients.batches import call_model, device_of
from hqde_fl.clients.data_forms import example_total
from hqde_fl.clients.optimizer_steps import clear_gradients, step_of
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.sampled_steps import require_opacus
from hqde_fl.clients.scoring import NoTargetsError, Scoring
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import backward
from hqde_fl.clients.training_hooks import Poison, idle, poison
from hqde_fl.clients.training_settings import Training
from hqde_fl.clients.user_code import user_code

__all__ = ["Training", "train"]


def train(
    model: nn.Module,
    data: Dataset[Any],
    task: Task,
    training: Training,
    generator: torch.Generator,
    optimizer: Optimizer | None = None,
    work: float = 1.0,
) -> float:
    """Train a model in place and return its mean training loss.

    While a fault sets ``training_hooks.idle``, the weights are left as they are and the loss on the
    first batch is returned.

    Parameters
    ----------
    model : nn.Module
        A model with the global weights; holds the trained weights afterwards.
    data : Dataset
        The client's examples, at least one.
    task : Task
        The loss and the way to make batches.
    training : Training
        The settings of training.
    generator : torch.Generator
        Source of all random numbers: the order of the examples and those that the model draws.
    optimizer : Optimizer, optional
        A result of ``training.new_optimizer(model)``, whose state is cleared; a new one if not
        given.
    work : float, default=1.0
        The part of these steps to do, in (0, 1]; rounded up to whole steps, at least one.

    Returns
    -------
    float
        Mean loss over all examples that were trained on, without the proximal term. Of a classifier
        the mean over all targets but the ignored label; a batch without others is left out.
    """
    if optimizer is None:
        optimizer = training.new_optimizer(model)
    optimizer.state.clear()
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with reproducible(seed, training.threads, restores=False):
        if idle.get():
            return _first_loss(model, data, task, training)
        if training.dp_sgd is not None:
            require_opacus()
            from hqde_fl.clients.dp_sgd import descend_privately

            return descend_privately(model, data, task, training, generator, optimizer, work)
        batches = math.inf
        if work < 1:
            of_epoch = shuffled_batches(example_total(data), training.batch_size)
            batches = math.ceil(work * training.epochs * of_epoch)
        return _descend(model, data, task, training, generator, optimizer, batches)


def _descend(
    model: nn.Module,
    data: Dataset[Any],
    task: Task,
    training: Training,
    generator: torch.Generator,
    optimizer: Optimizer,
    batches: float,
) -> float:
    """Do the steps of training on a number of batches, and on more until one has targets."""
    change = poison.get()
    if isinstance(change, Poison):
        change.begin(task, data, model)
    mu = training.proximal_mu
    kept = model.parameters() if mu else ()
    anchors = {p: p.detach().clone() for p in kept if p.requires_grad}
    device, noise, step, read = device_of(model), training.regularization_noise, 0, 0
    scoring, total, seen = Scoring(task), torch.zeros((), device=device), 0
    do_step = step_of(optimizer)
    model.train()
    for _ in range(training.epochs):
        if read >= batches and seen:
            break
        for batch in iterate_batches(data, training.batch_size, model, generator, task.collate):
            if read >= batches and seen:
                break
            read += 1
            x, y = batch.inputs, batch.targets
            if change is not None:
                x, y = change(x, y)
            if (weight := scoring.weight(y, batch.size)) == 0:
                continue  # the mean over no targets is NaN
            clear_gradients(optimizer)
            loss = scoring.loss(call_model(model, x), y, trains=True)
            backward(loss, task)
            for parameter in model.parameters() if mu else ():
                if parameter.grad is not None:  # the gradient of the proximal term
                    if parameter not in anchors:  # thawed in this step, and so still as received
                        anchors[parameter] = parameter.detach().clone()
                    parameter.grad.add_(parameter.detach() - anchors[parameter], alpha=mu)
            if noise is not None:
                for gradient in (p.grad for p in model.parameters() if p.grad is not None):
                    gradient.add_(noise.draw_noise(gradient, step, generator))
            with user_code("the optimiser's step"):
                do_step()
            step += 1
            total, seen = total + loss.detach() * weight, seen + weight
    if not seen:
        raise NoTargetsError(task)
    return float(total) / seen


@torch.no_grad()
def _first_loss(model: nn.Module, data: Dataset[Any], task: Task, training: Training) -> float:
    model.eval()  # in training mode even a forward pass changes running statistics
    scoring = Scoring(task)
    for batch in iterate_batches(data, training.batch_size, model, collate=task.collate):
        if scoring.weight(batch.targets, batch.size):
            return float(scoring.loss(call_model(model, batch.inputs), batch.targets))
    raise NoTargetsError(task)
