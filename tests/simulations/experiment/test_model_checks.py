"""A model that cannot be trained in a federation is refused in one line, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

from hqde_fl import create_hqde_system
from hqde_fl.clients.initial_state import initial_models, initial_roles, initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_check import check_model
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.console.command_line import app
from hqde_fl.simulations.experiment.experiment import Experiment


class Eighth(nn.Linear):
    """A layer with a buffer of float8."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("scale", torch.ones(1).to(torch.float8_e5m2))


class Extra(nn.Linear):
    """A layer with extra state."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def get_extra_state(self) -> Any:
        return {"epochs": 1}


def lazy_layer() -> nn.Module:
    return nn.LazyLinear(2)


def integers() -> nn.Module:
    weight = nn.Parameter(torch.ones(2, dtype=torch.int32), requires_grad=False)
    return nn.ParameterList([weight])


def broken() -> nn.Module:
    raise ValueError("no\nweights")


def no_module() -> Any:
    return [1, 2]


def data(*_: int) -> TensorDataset:
    return TensorDataset(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))


REFUSED: dict[str, tuple[Any, str]] = {
    "eighth": (Eighth, "entry 'scale' of the model has dtype torch.float8_e5m2"),
    "extra": (Extra, "entry '_extra_state' of the model is a module's extra state"),
    "lazy": (lazy_layer, "entry 'weight' of the model is not materialised yet"),
    "integer": (integers, "the model needs a floating-point parameter with requires_grad"),
    "none": (no_module, "module, found [1, 2]"),
    "error": (broken, "Task.model raised ValueError: no weights (test_model_checks.py, line 5"),
}
MODELS = [name for name in REFUSED if name != "error"]

eighth, extra, lazy, integer, none, error = (Task(m, data, data) for m, _ in REFUSED.values())


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]])
@pytest.mark.parametrize("name", REFUSED)
def test_a_run_is_refused_in_one_line(tmp_path: Path, name: str, arguments: list[str]) -> None:
    file, out = tmp_path / "odd.toml", tmp_path / "out"
    file.write_text(
        f'rounds = 1\ntask.name = "{__name__}:{name}"\nclients.count = 4\nengine.name = "inline"\n'
    )
    where = [] if arguments else ["--out", str(out)]
    done = CliRunner().invoke(app, ["run", str(file), *where, *arguments])
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert REFUSED[name][1] in line
    assert not out.exists()


@pytest.mark.parametrize("name", MODELS)
def test_a_system_is_refused_when_it_is_created(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_hqde_system(REFUSED[name][0], engine="ray", show_progress=False)
    assert REFUSED[name][1] in str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_initial_models_are_checked(name: str) -> None:
    task, message = globals()[name], REFUSED[name][1]
    for build in (initial_models, initial_state):
        with pytest.raises(ConfigError) as caught:
            build(task, 2, Seeds(0))
        assert message in str(caught.value)
    for call in (lambda: initial_roles(task), lambda: check_model(task, Seeds(0))):
        with pytest.raises(ConfigError) as caught:
            call()
        assert message in str(caught.value)


def test_building_a_model_leaves_the_generators_alone() -> None:
    task = Task(lambda: nn.Linear(2, 2), data, data)
    before = torch.get_rng_state()
    first, second = initial_models(task, 2, Seeds(0))
    assert not torch.equal(first.weight, second.weight)
    assert initial_roles(task).roles == {"weight": "trainable", "bias": "trainable"}
    assert torch.equal(torch.get_rng_state(), before)


class Frozen(nn.Module):
    """A frozen bias and a trained scale, which two names share."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.norm.bias.requires_grad_(False)
        self.scale = self.norm.weight


def test_the_facts_of_a_task_know_its_weights_from_the_rest() -> None:
    facts = TaskFacts(Task(Frozen, data, data), data)
    assert list(facts.weights) == ["scale"]
    assert facts.layout.codes == "ttfssc"
    facts.require_weights()


def test_a_fault_that_has_no_weight_to_change_is_refused() -> None:
    table = {
        "task": {"name": f"{__name__}:integer"},
        "clients": {"count": 4},
        "faults": [{"name": "sign-flip", "count": 1}],
    }
    faults = Experiment.parse(table).parts.faults
    with pytest.raises(ConfigError, match="'sign-flip' cannot act on this task: the model needs a"):
        faults.check_task(integer)
