"""Predictions of ``HQDESystem`` over any dimensions, and validations that fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hqde_fl import create_hqde_system
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError, DataError, RunError, TaskError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from tests.contracts.tasks import KINDS

LABELS = torch.arange(12) % 3
POINTS = TensorDataset(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), LABELS)


def system_of(kind: str, **options: Any) -> Any:
    """Return a system of two members for a kind of task."""
    return create_hqde_system(
        KINDS[kind].model,
        num_workers=2,
        training_config={"members": 2},
        loss_fn=KINDS[kind].loss,
        engine="inline",
        show_progress=False,
        **options,
    )


def loader_of(kind: str, inputs_only: bool = False, size: int = 6) -> DataLoader[Any]:
    data: Any = KINDS[kind].examples(0)
    if inputs_only:
        data = TensorDataset(data.tensors[0])
    return DataLoader(data, size, collate_fn=None if inputs_only else KINDS[kind].collate)


@pytest.mark.parametrize("kind", ["words last", "words first", "segmentation"])
def test_probabilities_have_the_shape_of_the_outputs(kind: str) -> None:
    """They are those of the members' own outputs, with and without targets in the batches."""
    system, loader = system_of(kind), loader_of(kind)
    system.train(loader, 1)
    found = system.predict_proba(loader_of(kind, inputs_only=True))
    x = loader.dataset.tensors[0]
    axis = -1 if kind == "words last" else 1
    expected = []
    for state in system.state_dicts():
        model = KINDS[kind].model()
        model.load_state_dict(state)
        expected.append(model(x).detach().softmax(dim=axis))
    mean = torch.stack(expected).mean(dim=0)
    torch.testing.assert_close(found.probability, mean, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.label, found.probability.argmax(dim=axis))
    assert found.entropy.shape == found.mutual_information.shape == KINDS[kind].prediction
    assert torch.equal(system.predict(loader), found.label)


def test_predictions_for_ragged_batches_are_padded() -> None:
    system, loader = system_of("ragged"), loader_of("ragged")
    system.train(loader, 1)
    found = system.predict_proba(loader)
    assert torch.equal(system.predict(loader), found.label)
    start = 0
    for batch in loader:
        n, t = batch[0].shape
        (alone,) = [system.predict_proba([batch])]
        rows = slice(start, start + n)
        assert torch.equal(found.label[rows, :t], alone.label)
        torch.testing.assert_close(found.probability[rows, :t], alone.probability)
        assert found.label[rows, t:].eq(-100).all()
        assert found.probability[rows, t:].isnan().all()
        assert found.entropy[rows, t:].isnan().all()
        start += n
    assert start == len(found.label)


def test_an_unknown_class_axis_is_asked_for() -> None:
    system = system_of("segmentation")
    images = loader_of("segmentation", inputs_only=True)
    with pytest.raises(ConfigError, match=r"which axis .* \(6, 3, 4, 6\).*state class_axis"):
        system.predict(images)
    assert system_of("segmentation", class_axis=1).predict(images).shape == (24, 4, 6)
    with pytest.raises(ConfigError, match=r"Task\.class_axis must be"):
        system_of("segmentation", class_axis=0)


def test_the_stated_class_axis_is_used_for_losses_and_predictions() -> None:
    """With as many words as places, the last axis has to be stated."""

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x)

    x = torch.randn(12, 5, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60).reshape(12, 5) % 5
    loader = DataLoader(TensorDataset(x, y), 6)
    found = {}
    for axis in (None, 1, -1):
        system = create_hqde_system(
            Square, num_workers=2, class_axis=axis, engine="inline", show_progress=False
        )
        model = Square()
        model.load_state_dict(system.state_dicts()[0])
        scores = model(x).detach()
        scores = scores.movedim(-1, 1) if axis == -1 else scores
        expected = nn.functional.cross_entropy(scores, y)
        found[axis] = system.evaluate(loader)["loss"]
        assert found[axis] == pytest.approx(float(expected), rel=1e-5)
        assert torch.equal(system.predict(loader), scores.argmax(dim=1))
    assert found[None] == found[1] != found[-1]


def test_a_worker_of_which_no_label_counts_is_skipped() -> None:
    """The others train; if there are none, the error says that there is nothing to learn."""
    options: dict[str, Any] = {"engine": "inline", "show_progress": False}
    system = create_hqde_system(nn.Linear, {"in_features": 4, "out_features": 3}, 3, **options)
    labels = torch.full((12,), -100)
    with pytest.raises(RunError, match="no worker could train: skipped: no data"):
        system.train(DataLoader(TensorDataset(POINTS.tensors[0], labels), 6), 1)
    labels[5] = 1
    (epoch,) = system.train(DataLoader(TensorDataset(POINTS.tensors[0], labels), 6), 1)
    assert (epoch["kept"], epoch["asked"]) == (1, 3)
    assert epoch["train-loss"] > 0


# --- evaluations that fail ------------------------------------------------------------------------


class Failing:
    """A loader whose second pass fails."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        yield from DataLoader(POINTS, 6)
        if self.passes == 2:
            raise OSError("disk failed")


def test_a_validation_that_fails_leaves_the_epoch() -> None:
    def system_of_points() -> Any:
        return create_hqde_system(
            nn.Linear,
            {"in_features": 4, "out_features": 3},
            2,
            engine="inline",
            show_progress=False,
        )

    system, other = system_of_points(), system_of_points()
    loader = DataLoader(POINTS, 6)
    with pytest.raises(RunError, match=r"after epoch 2 failed: .*disk failed.*the epoch is kept"):
        system.train(loader, 4, Failing())
    assert system.epochs == 2
    assert [epoch["epoch"] for epoch in system.history] == [1, 2]
    assert "validation-loss" in system.history[0]
    assert "validation-loss" not in system.history[1]
    rest = system.train(loader, 2)
    whole = other.train(loader, 4)
    assert [epoch["train-loss"] for epoch in rest] == [e["train-loss"] for e in whole[2:]]
    assert system.history[2:] == rest
    for own, same in zip(system.state_dicts(), other.state_dicts(), strict=True):
        assert all(torch.equal(own[name], same[name]) for name in own)


@pytest.mark.parametrize("validation", [POINTS, 5, len])
def test_what_yields_no_batches_is_refused_before_training(validation: Any) -> None:
    system = create_hqde_system(
        nn.Linear,
        {"in_features": 4, "out_features": 3},
        2,
        engine="inline",
        show_progress=False,
    )
    with pytest.raises(DataError, match="a loader of batches is needed, found a "):
        system.train(DataLoader(POINTS, 6), 1, validation)
    assert system.epochs == 0


FAILS = {"in-round": 0}


def failing_metric(outputs: Tensor, targets: Tensor) -> float:
    """Count evaluations, and fail in one of them."""
    FAILS["in-round"] -= 1
    if FAILS["in-round"] == 0:
        raise ValueError("no such metric")
    return 1.0


def task(partitions: int, seed: int, partition: Any) -> Task:
    """Return a task whose metric fails."""
    return Task(
        lambda: nn.Linear(4, 3),
        lambda number, count: POINTS,
        lambda: POINTS,
        metrics={"own": failing_metric},
    )


def test_an_evaluation_that_fails_leaves_the_rounds_checkpoint(tmp_path: Path) -> None:
    """The run is resumed after the round whose evaluation failed, to the same model."""
    table = {
        "rounds": 4,
        "task": {"name": f"{__name__}:task"},
        "clients": {"count": 2, "batch-size": 6, "lr": 0.1},
        "strategy": {"fraction-evaluate": 0.0},
        "checkpoint": {"every": 1},
        "engine": {"name": "inline"},
    }
    experiment = Experiment.parse(table)
    FAILS["in-round"] = 0
    run_experiment(experiment, tmp_path / "whole", report=False)
    evaluations = -FAILS["in-round"]
    assert evaluations >= 5
    FAILS["in-round"] = evaluations - 2  # that of round 2
    with pytest.raises(TaskError, match="metric 'own' raised ValueError: no such metric"):
        run_experiment(experiment, tmp_path / "run", report=False)
    recorded = Run.load(tmp_path / "run").rounds
    assert [line["round"] for line in recorded] == [0, 1, 2]
    assert [bool(line["server"]) for line in recorded] == [True, True, False]
    FAILS["in-round"] = 0
    run_experiment(experiment, tmp_path / "run", report=False, resume=True)
    assert [line["round"] for line in Run.load(tmp_path / "run").rounds] == [0, 1, 2, 3, 4]
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert models[0] == models[1]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_around_a_run_changes_nothing(context: Any, tmp_path: Path) -> None:
    kind = KINDS["words last"]

    def results(name: str) -> tuple[Any, ...]:
        with torch.inference_mode(False):
            loader = loader_of("words last")
        system = system_of("words last")
        history = [epoch["train-loss"] for epoch in system.train(loader, 1, loader)]
        table = {
            "rounds": 1,
            "task": {"name": "tests.contracts.tasks:kind_task", "kind": "words last"},
            "clients": {"count": 2, "batch-size": 6},
            "engine": {"name": "inline"},
        }
        run_experiment(Experiment.parse(table), tmp_path / name, report=False)
        model = (tmp_path / name / "model.safetensors").read_bytes()
        return history, system.evaluate(loader), model

    outside = results("outside")
    with context():
        inside = results("inside")
        assert evaluate([kind.model()], kind.examples(0), kind.task())
    assert inside == outside
