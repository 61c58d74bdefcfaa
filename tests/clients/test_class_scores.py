"""Where outputs have their class scores, and which targets count."""

from __future__ import annotations

import logging
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hqde_fl.clients import class_scores
from hqde_fl.clients.class_scores import ClassAxis, is_class_loss
from hqde_fl.clients.model_outputs import (
    combine_outputs,
    joined_batches,
    mean_outputs,
    with_logits,
)
from hqde_fl.clients.task import Task, accuracy
from hqde_fl.errors import ConfigError, TaskError


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def classes(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


@pytest.mark.parametrize(
    ("outputs", "targets", "axis"),
    [
        ((8, 3), (8,), 1),
        ((8, 3), (8, 1), 1),
        ((40, 3), (8, 5), 1),
        ((8, 3, 5), (8, 5), 1),
        ((8, 5, 3), (8, 5), 2),
        ((8, 3, 4, 6), (8, 4, 6), 1),
        ((8, 3, 4, 6), (8, 1, 4, 6), 1),
        ((8, 4, 6, 3), (8, 4, 6), 3),
        ((8, 4, 6, 3), (8, 4, 6, 1), 3),
        ((8, 2, 3, 4, 5), (8, 3, 4, 5), 1),
        ((8, 1), (8,), None),
        ((8, 3), (8, 3), None),
        ((8, 3), (7,), None),
        ((8, 1, 5), (8, 5), None),
        ((8,), (8,), None),
        ((8, 5, 6, 3), (8, 5), None),
    ],
)
def test_the_axis_is_the_one_that_targets_lack(
    outputs: tuple[int, ...], targets: tuple[int, ...], axis: int | None
) -> None:
    found = ClassAxis().find(draw(*outputs), classes(*targets))
    assert found == axis
    assert ClassAxis().find(draw(*outputs).tolist(), classes(*targets)) is None


def test_an_ambiguous_axis_is_torchs_and_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_scores, "_choice_logged", set())
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    for _ in range(3):
        assert ClassAxis().find(draw(8, 5, 5), classes(8, 5)) == 1
    assert ClassAxis(-1).find(draw(8, 5, 5), classes(8, 5)) == 2
    assert len(caplog.messages) == 1
    assert "(8, 5, 5) for targets (8, 5)" in caplog.messages[0]
    assert "class_axis = -1" in caplog.messages[0]


def test_batches_of_one_pass_have_one_axis() -> None:
    last = ClassAxis()
    assert last.find(draw(8, 4, 5), classes(8, 4)) == 2
    assert last.find(draw(8, 5, 5), classes(8, 5)) == 2  # as before
    with pytest.raises(ConfigError, match=r"\(8, 5, 4\) .*axis 1, .* axis -1: class_axis"):
        last.find(draw(8, 5, 4), classes(8, 4))
    first = ClassAxis()
    assert first.find(draw(8, 5, 5), classes(8, 5)) == 1
    with pytest.raises(ConfigError, match="class_axis = 1 or -1"):
        first.find(draw(8, 4, 5), classes(8, 4))


@pytest.mark.parametrize("stated", [2, -2])
def test_a_stated_axis_may_be_any_that_fits(stated: int) -> None:
    axis = ClassAxis(stated)
    assert axis.find(draw(4, 5, 3, 6), classes(4, 5, 6)) == 2
    with pytest.raises(ConfigError, match=rf"class_axis = {stated} does not fit outputs \(4, 6, 5"):
        axis.find(draw(4, 6, 5, 5), classes(4, 5, 5))
    with pytest.raises(ConfigError, match="class_axis = 5 does not fit"):
        ClassAxis(5).find(draw(4, 5, 3), classes(4, 3))
    with pytest.raises(ConfigError, match="class_axis = 2 does not fit"):
        ClassAxis(2).find(draw(4, 3), classes(4))
    assert ClassAxis(-1).find(draw(20, 3), classes(4, 5)) == 1


@pytest.mark.parametrize("axis", [0, 1.0, True, "last"])
def test_an_impossible_axis_or_label_is_refused_by_the_task(axis: Any) -> None:
    def task(**more: Any) -> Task:
        return Task(nn.Identity, lambda i, n: [], lambda: [], **more)

    with pytest.raises(ConfigError, match=r"Task\.class_axis must be a whole number"):
        task(class_axis=axis)
    with pytest.raises(ConfigError, match=r"Task\.ignore_index must be a whole number"):
        task(ignore_index=str(axis))
    with pytest.raises(ConfigError, match=r"must be that of its loss, 2, found 7"):
        task(loss=nn.CrossEntropyLoss(ignore_index=2), ignore_index=7)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_accuracy_counts_the_places_with_a_label(axis: int) -> None:
    scores = draw(3, 4, 2, 5)  # the classes last
    targets = torch.randint(5, (3, 4, 2), generator=torch.Generator().manual_seed(1))
    targets[0, 1] = targets[2, 3, 0] = -100
    right = total = 0
    for i in range(3):
        for j in range(4):
            for k in range(2):
                if (label := int(targets[i, j, k])) != -100:
                    row = scores[i, j, k].tolist()
                    right, total = right + (row.index(max(row)) == label), total + 1
    moved = scores.movedim(-1, axis)
    found = ClassAxis(axis).class_scores(moved, targets, -100)
    assert found is not None
    assert found.accuracy == pytest.approx(right / total)
    assert torch.equal(found.in_outputs_shape(found.scores), moved)
    assert len(found.class_numbers) == total == 21
    if axis != 2:
        assert accuracy(moved, targets) == found.accuracy
        assert accuracy({"logits": moved}, targets) == found.accuracy


def test_accuracy_and_labels_that_cannot_be_are_errors() -> None:
    with pytest.raises(TaskError, match=r"outputs \(8, 1\) float32 for targets \(8\) int64|\(8,\)"):
        accuracy(draw(8, 1), classes(8))
    found = ClassAxis().class_scores(draw(8, 3), classes(8) + 255, -100)
    assert found is not None
    with pytest.raises(TaskError, match=r"\[0, 3\) for 3 class scores, found 255: ignore_index"):
        _ = found.class_numbers


def test_torchs_losses_of_classes() -> None:
    for loss in (functional.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1), nn.NLLLoss()):
        assert is_class_loss(loss)
    assert is_class_loss(partial(functional.cross_entropy, ignore_index=0))
    for other in (functional.mse_loss, nn.BCEWithLogitsLoss(), lambda o, t: o.mean(), partial(max)):
        assert not is_class_loss(other)


# --- outputs of several models or batches ---------------------------------------------------------


class ModelOutput(dict[str, Any]):
    """A mapping whose entries are attributes too, as Hugging Face's."""

    __getattr__ = dict.__getitem__


def test_outputs_are_averaged_tensor_by_tensor() -> None:
    one, two = draw(4, 2), draw(4, 2) + 1
    mean = (one + two) / 2
    assert mean_outputs(["anything"]) == "anything"
    assert torch.equal(mean_outputs([one, two]), mean)
    pair = mean_outputs([(one, "a", one > 0), (two, "b", two > 0)])
    assert torch.equal(pair[0], mean)
    assert pair[1:] == (None, None)
    found = mean_outputs([ModelOutput(logits=v, cache=object(), layers=(v, v)) for v in (one, two)])
    assert type(found) is ModelOutput
    assert found.keys() == {"logits", "layers"}
    assert torch.equal(found.layers[1], mean)
    named = mean_outputs([SimpleNamespace(logits=v, cache=3) for v in (one, two)])
    assert torch.equal(named.logits, mean)
    assert mean_outputs([{0: one}, {0: two}]).keys() == {0}
    with pytest.raises(TaskError, match="found a str"):
        combine_outputs(lambda tensors: tensors[0], ["a", "b"])


def test_logits_can_be_replaced() -> None:
    one, two = draw(4, 2), draw(4, 3)
    assert with_logits(one, two) is two
    outputs = ModelOutput(logits=one, cache=5)
    changed = with_logits(outputs, two)
    assert (changed.logits, changed.cache, outputs.logits) == (two, 5, one)
    named = SimpleNamespace(logits=one)
    assert with_logits(named, two).logits is two
    assert named.logits is one


def test_batches_are_padded_at_their_ends() -> None:
    joined = joined_batches([torch.ones(2, 3, 4), torch.ones(1, 5, 2)], 7)
    assert joined.shape == (3, 5, 4)
    assert joined[:2, :3].eq(1).all()
    assert joined[:2, 3:].eq(7).all()
    assert joined[2, :, 2:].eq(7).all()
    with pytest.raises(TaskError, match=r"shapes \(2, 3\) and \(2,\)"):
        joined_batches([torch.ones(2, 3), torch.ones(2)], 0)
