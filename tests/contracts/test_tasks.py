"""Every kind of task, through both fronts, with one model and with an ensemble."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hqde_fl import create_hqde_system
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.simulations.engines.ray.lease import RayLease
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from tests.contracts.tasks import KINDS, TaskKind

SCORES = {"accuracy", "nll", "ece"}
OF_MEMBERS = {f"member-{name}" for name in SCORES} | {"diversity", "disagreement"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def use_system(kind: TaskKind, members: int, engine: str) -> None:
    """Train, evaluate and predict with ``create_hqde_system``, and check what it returns."""
    loader = DataLoader(kind.examples(1), 6, collate_fn=kind.collate)
    own = DataLoader(kind.examples(0), 6, collate_fn=kind.collate)
    with create_hqde_system(
        kind.model,
        num_workers=2,
        training_config={"members": members, "learning_rate": 0.02},
        loss_fn=kind.loss,
        engine=engine,
        show_progress=False,
    ) as system:
        (epoch,) = system.train(loader, 1, own)
    expected = {"loss"} | (SCORES if kind.classifier else set())
    expected |= OF_MEMBERS if kind.classifier and members > 1 else set()
    values = system.evaluate(own)
    assert values.keys() == expected
    assert values == system.evaluate(own)
    assert values == {name: epoch[f"validation-{name}"] for name in expected}
    assert all(math.isfinite(value) for value in values.values())
    assert math.isfinite(epoch["train-loss"])
    predicted = system.predict(own)
    predicted = predicted["logits"] if isinstance(predicted, dict) else predicted
    assert tuple(predicted.shape) == kind.prediction


def run_task(name: str, members: int, engine: str, out: Path) -> None:
    """Run an experiment with a kind of task, and check the metrics that it records."""
    table: dict[str, Any] = {
        "rounds": 1,
        "task": {"name": "tests.contracts.tasks:kind_task", "kind": name},
        "clients": {"count": 2, "batch-size": 6, "lr": 0.05, "members": members},
        "strategy": {"rule": "mean"},
        "engine": {"name": engine},
    }
    result = run_experiment(Experiment.parse(table), out, report=False)
    classifier = KINDS[name].classifier
    expected = {"loss"} | ({"accuracy"} if classifier else set())
    expected |= (SCORES | OF_MEMBERS) if classifier and members > 1 else set()
    assert set(result.final) == expected
    assert all(math.isfinite(value) for value in result.final.values())


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_hqdes_front(kind: TaskKind, members: int) -> None:
    use_system(kind, members, "inline")


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_an_experiment(name: str, members: int, tmp_path: Path) -> None:
    run_task(name, members, "inline", tmp_path / "run")


@pytest.mark.zoo
@pytest.mark.xdist_group("ray")
def test_on_ray(tmp_path: Path) -> None:
    lease = RayLease()
    try:
        for name in ("ragged", "segmentation", "column", "text"):
            use_system(KINDS[name], 3, "ray")
            run_task(name, 1, "ray", tmp_path / name)
    finally:
        lease.release()


@pytest.mark.parametrize("name", ["words last", "words first", "words flattened", "logits"])
def test_layouts_of_the_scores_have_the_same_loss_and_scores(name: str) -> None:
    """A model's evaluation does not depend on the axis that has its class scores."""
    reference, kind = KINDS["words last"], KINDS[name]
    torch.manual_seed(1)
    models = [reference.model() for _ in range(3)]
    same = [kind.model() for _ in range(3)]
    for model, other in zip(models, same, strict=True):
        other.load_state_dict(model.state_dict())
    for few in (1, 3):
        values = evaluate(models[:few], reference.examples(0), reference.task(), 10)
        found = evaluate(same[:few], kind.examples(0), kind.task(), 10)
        assert found == pytest.approx(values, rel=1e-5)
