"""Choice of the members of an ensemble that vote, by examples that the server holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.batches import Batch, call_model, logits_of
from hqde_fl.clients.evaluation import class_probabilities, evaluation_mode
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.scoring import NoTargetsError, Scoring
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.selection.member_choice import ClassVotes, NumberVotes, bounded_errors
from hqde_fl.selection.qubo_problem import SubsetProblem
from hqde_fl.selection.subset_solver import Subset, solve_subset
from hqde_fl.strategies.callbacks import RoundRecord

BATCH_SIZE = 1024
"""Examples that are predicted at once."""


@torch.no_grad()
def choose_voters(
    models: Sequence[nn.Module],
    batches: Iterable[Batch],
    task: Task,
    count: int,
    rng: np.random.Generator,
) -> Subset:
    """Return the members whose common vote promises to be the best, by labelled batches.

    Members that predict classes are chosen by accuracy and disagreement; members whose outputs are
    numbers in the shape of their targets, so that the error of their mean is least; others by the
    task's loss alone.

    Parameters
    ----------
    models : Sequence[nn.Module]
        The members.
    batches : Iterable[Batch]
        At least one batch, on the models' device.
    task : Task
        The loss, and whether the models are classifiers.
    count : int
        The number of members to choose, in [1, len(models)].
    rng : np.random.Generator
        The source of random numbers.

    Raises
    ------
    ConfigError
        If there is no example.
    NoTargetsError
        If no target counts.
    """
    return solve_subset(_problem(models, batches, task, count), rng)


def _problem(
    models: Sequence[nn.Module], batches: Iterable[Batch], task: Task, count: int
) -> SubsetProblem:
    scoring, classes, numbers = Scoring(task), ClassVotes(), NumberVotes()
    by_class, by_number = task.classifier, not task.classifier
    seen = examples = 0
    losses = np.zeros(len(models))
    with evaluation_mode(models):
        for batch in batches:
            targets, weight = batch.targets, scoring.weight(batch.targets, batch.size)
            examples += batch.size
            if weight == 0:
                continue
            seen += weight
            answers = [call_model(model, batch.inputs) for model in models]
            by_class = by_class and _add_classes(classes, scoring, answers, targets)
            by_number = by_number and _add_numbers(numbers, answers, targets)
            losses += [weight * float(scoring.loss(answer, targets)) for answer in answers]
    if not examples:
        raise ConfigError("the choice of voters needs at least 1 example, found 0")
    if not seen:
        raise NoTargetsError(task)
    if by_class:
        return classes.problem(count)
    if by_number:
        return numbers.problem(count)
    return SubsetProblem(-bounded_errors(losses / seen), np.zeros((len(models),) * 2), count)


def _add_classes(votes: ClassVotes, scoring: Scoring, answers: Sequence[Any], targets: Any) -> bool:
    """Add a batch's predictions, and return False if its outputs are no class scores."""
    members = [scoring.class_scores(answer, targets) for answer in answers]
    known = [member for member in members if member is not None]
    if len(known) < len(members):
        return False
    first = known[0]
    probabilities = [first.select(class_probabilities(member)) for member in known]
    votes.add(torch.stack(probabilities), first.class_numbers)
    return True


def _add_numbers(votes: NumberVotes, answers: Sequence[Any], targets: Any) -> bool:
    """Add a batch's predictions, and return False if outputs and targets differ in shape."""
    outputs = [logits_of(answer) for answer in answers]
    shaped = isinstance(targets, Tensor) and not targets.is_complex()
    if not shaped or not all(isinstance(o, Tensor) and o.shape == targets.shape for o in outputs):
        return False
    votes.add(torch.stack(outputs), targets)
    return True


@final
@dataclass(eq=False)
class Voters:
    """Chooses the members that vote on the server, anew for each model that is evaluated.

    Parameters
    ----------
    task : Task
        The task.
    examples : Dataset
        The examples that the members are judged by.
    count : int
        The number of members that vote.
    seeds : Seeds
        The run's seeds.
    """

    task: Task
    examples: Dataset[Any]
    count: int
    seeds: Seeds
    _last: Subset | None = field(default=None, init=False)

    def choose(self, server_round: int, models: Sequence[nn.Module]) -> tuple[int, ...]:
        """Return the numbers of the members that vote after a round, and remember them."""
        batches = iterate_batches(self.examples, BATCH_SIZE, models[0], collate=self.task.collate)
        rng = self.seeds.numpy("voters", server_round)
        with reproducible(0, 1):
            self._last = choose_voters(models, batches, self.task, self.count, rng)
        return self._last.chosen

    @property
    def last(self) -> dict[str, Any]:
        """The last choice, as records have it: ``members``, and ``solver``, which found it."""
        if self._last is None:
            return {}
        return {"members": list(self._last.chosen), "solver": self._last.solver}

    def measure(self, record: RoundRecord, arrays: Any) -> dict[str, Any]:
        """Return the entry of a round's line in ``rounds.jsonl``: that round's choice."""
        return self.last
