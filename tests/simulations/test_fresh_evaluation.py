"""Two evaluations of the same weights give the same bits, whatever a model keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hqde_fl import create_hqde_system
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.faults import Backdoor
from hqde_fl.clients.initial_state import initial_models, initial_state
from hqde_fl.clients.task import Task
from hqde_fl.protocol.records import to_record
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.experiment.held_out import judge, set_aside
from hqde_fl.simulations.server_app import evaluation


class Stateful(nn.Module):
    """A recurrent network that begins where the last call ended, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(16, 4), nn.Linear(4, 3)
        self.hidden: Tensor | None = None
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = None if self.hidden is None else self.hidden.mean(dim=0).expand(len(x), -1)
        hidden = self.cell(x.flatten(1), hidden)
        self.hidden = hidden.detach()
        return self.out(hidden) * self.calls


def examples(*_: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(30, 1, 4, 4, generator=generator), torch.arange(30) % 3)


TASK = Task(Stateful, examples, examples)


@pytest.mark.parametrize("members", [1, 2])
def test_the_server_evaluates_a_fresh_model(members: int) -> None:
    arrays = to_record(initial_state(TASK, members, Seeds(0)))
    backdoor = Backdoor(size=1)
    measure = evaluation(TASK, members, backdoor)
    first = dict(measure(1, arrays))
    assert dict(measure(2, arrays)) == first
    assert dict(measure(3, to_record(initial_state(TASK, members, Seeds(1))))) != first
    plain = dict(evaluation(TASK, members)(1, arrays))
    assert {name: first[name] for name in plain} == plain


class Features(nn.Module):
    """A model on features drawn at random, which its state dict does not hold."""

    directions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(16, 8), persistent=False)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.out((x.flatten(1) @ self.directions).cos())
        return outputs


@pytest.mark.parametrize("members", [1, 2])
def test_what_a_model_draws_at_random_is_the_same_everywhere_in_a_run(members: int) -> None:
    task, seeds = Task(Features, examples, examples), Seeds(3)
    models = initial_models(task, members, seeds)
    arrays = to_record(initial_state(task, members, seeds))
    expected = evaluate(models, examples(), task)["loss"]
    assert evaluation(task, members, seeds=seeds)(0, arrays)["loss"] == expected
    with create_hqde_system(
        Features,
        {},
        2,
        training_config={"members": members},
        seed=3,
        engine="inline",
        show_progress=False,
    ) as system:
        found = system.evaluate(DataLoader(examples(), 30))["loss"]
    assert found == expected


def test_held_out_examples_are_judged_by_the_model_of_the_run() -> None:
    def measure(model: nn.Module, data: Any, task: Task) -> float:
        return float(torch.equal(model.get_buffer("directions"), expected))

    task, seeds = Task(Features, examples, examples), Seeds(3)
    (model,) = initial_models(task, 1, seeds)
    expected = model.get_buffer("directions")
    confidence = judge(*set_aside(task, 10, seeds), seeds, measure)
    assert confidence(model.state_dict()) == 1


def test_held_out_examples_are_judged_by_a_fresh_model() -> None:
    confidence = judge(*set_aside(TASK, 10, Seeds(0)), Seeds(0))
    state = Stateful().state_dict()
    first = confidence(state)
    assert 0 < first < 1
    assert confidence(state) == first


def test_the_system_evaluates_and_predicts_with_fresh_models() -> None:
    loader = DataLoader(examples(), 8)
    with create_hqde_system(
        Stateful, {}, 2, training_config={"members": 2}, engine="inline", show_progress=False
    ) as system:
        first, votes = system.evaluate(loader), system.predict_proba(loader).probability
        assert system.evaluate(loader) == first
        assert torch.equal(system.predict_proba(loader).probability, votes)
        system.train(loader, 1)
        after = system.evaluate(loader)
        assert after != first
        assert system.evaluate(loader) == after
