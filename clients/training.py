"""Local training of one client's model, reproducible to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches, shuffled_batches, shuffled_order
from hqde_fl.clients.batches import Batch, call_model, device_of
from hqde_fl.clients.control_variates import ControlVariate
from hqde_fl.clients.data_forms import example_total
from hqde_fl.clients.kept_training import KeptTraining
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
    number: int = 1,
    kept: KeptTraining | None = None,
    control: ControlVariate | None = None,
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
        A result of ``training.new_optimizer(model)``, whose state is cleared first; a new one if
        not given.
    work : float, default=1.0
        The part of these steps to do, in (0, 1]; rounded up to whole steps, at least one.
    number : int, default=1
        The round, for the schedule of the learning rate.
    kept : KeptTraining, optional
        The optimiser's state and the place in the data to go on with; those after this training are
        stored in it. Without it the optimiser has no state, and a pass over the data begins.
    control : ControlVariate, optional
        SCAFFOLD's correction of the gradients, which holds the client's new control variate then.

    Returns
    -------
    float
        Mean loss over all examples that were trained on, without the proximal term. Of a classifier
        the mean over all targets but the ignored label; a batch without others is left out.
    """
    if optimizer is None:
        optimizer = training.new_optimizer(model)
    optimizer.state.clear()
    rate = training.rate(number)
    if training.lr_schedule is not None:
        for group in optimizer.param_groups:
            group["lr"] = rate
    if kept is not None:
        kept.load(model, optimizer)
    if training.dampening and isinstance(optimizer, SGD):
        _begin_momentum_at_zero(optimizer)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with reproducible(seed, training.threads, restores=False):
        if idle.get():
            return _first_loss(model, data, task, training)
        if training.dp_sgd is not None:
            require_opacus()
            from hqde_fl.clients.dp_sgd import descend_privately

            loss = descend_privately(model, data, task, training, generator, optimizer, work)
            if kept is not None:
                kept.keep(model, optimizer, 0)
            return loss
        batches = math.inf
        if training.steps:
            batches = math.ceil(work * training.steps)
        elif work < 1:
            of_epoch = shuffled_batches(example_total(data), training.batch_size)
            batches = math.ceil(work * training.epochs * of_epoch)
        if control is not None:
            control.begin(model)
        passes = _passes(model, data, task, training, generator, kept)
        loss, read, steps = _descend(
            model, data, task, training, generator, optimizer, batches, passes, control
        )
        if control is not None:
            control.close(model, steps, rate)
        if kept is not None:
            kept.keep(model, optimizer, read)
        return loss


def _begin_momentum_at_zero(optimizer: SGD) -> None:
    """Give zeros as momentum to the weights that have none: torch begins at the first gradient."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad and "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _passes(
    model: nn.Module,
    data: Dataset[Any],
    task: Task,
    training: Training,
    generator: torch.Generator,
    kept: KeptTraining | None,
) -> Iterator[Iterator[Batch]]:
    """Yield the batches of each pass over the data: of ``epochs`` passes, or without end.

    With ``steps``, passes go on where those of the client's last round stopped, if that is kept.
    """
    size = training.batch_size
    if not training.steps:
        for _ in range(training.epochs):
            yield iterate_batches(data, size, model, generator, task.collate)
        return
    examples = example_total(data)
    begun = 0 if kept is None else kept.batches
    number, place = divmod(begun, max(1, shuffled_batches(examples, size)))
    while True:
        source = generator if kept is None else kept.orders(number)
        order = shuffled_order(examples, size, source)[place * size :]
        yield iterate_batches(data, size, model, generator, task.collate, order)
        number, place = number + 1, 0


def _descend(
    model: nn.Module,
    data: Dataset[Any],
    task: Task,
    training: Training,
    generator: torch.Generator,
    optimizer: Optimizer,
    batches: float,
    passes: Iterator[Iterator[Batch]],
    control: ControlVariate | None,
) -> tuple[float, int, int]:
    """Do the steps of training on a number of batches, and on more until one has targets.

    Return the mean loss, the number of batches that were read and that of the steps.
    """
    change = poison.get()
    if isinstance(change, Poison):
        change.begin(task, data, model)
    mu, clip = training.proximal_mu, training.clip_grad_norm
    kept = model.parameters() if mu else ()
    anchors = {p: p.detach().clone() for p in kept if p.requires_grad}
    device, noise, step, read = device_of(model), training.regularization_noise, 0, 0
    scoring, total, seen = Scoring(task), torch.zeros((), device=device), 0
    do_step = step_of(optimizer)
    model.train()
    done = 0
    for of_pass in passes:
        if read >= batches and (seen or done > 1):  # a whole pass has no targets
            break
        done += 1
        for batch in of_pass:
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
            if clip:
                clip_grad_norm_(model.parameters(), clip)
            for parameter in model.parameters() if mu else ():
                if parameter.grad is not None:  # the gradient of the proximal term
                    if parameter not in anchors:  # thawed in this step, and so still as received
                        anchors[parameter] = parameter.detach().clone()
                    parameter.grad.add_(parameter.detach() - anchors[parameter], alpha=mu)
            if noise is not None:
                for gradient in (p.grad for p in model.parameters() if p.grad is not None):
                    gradient.add_(noise.draw_noise(gradient, step, generator))
            if control is not None:
                control.correct()
            with user_code("the optimiser's step"):
                do_step()
            step += 1
            total, seen = total + loss.detach() * weight, seen + weight
            if read >= batches:
                break  # before another batch is loaded
    if not seen:
        raise NoTargetsError(task)
    return float(total) / seen, read, step


@torch.no_grad()
def _first_loss(model: nn.Module, data: Dataset[Any], task: Task, training: Training) -> float:
    model.eval()  # in training mode even a forward pass changes running statistics
    scoring = Scoring(task)
    for batch in iterate_batches(data, training.batch_size, model, collate=task.collate):
        if scoring.weight(batch.targets, batch.size):
            return float(scoring.loss(call_model(model, batch.inputs), batch.targets))
    raise NoTargetsError(task)
