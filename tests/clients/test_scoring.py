"""Losses, metrics and scores over batches, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hqde_fl.clients.batches import Batch
from hqde_fl.clients.evaluation import evaluate, evaluate_batches
from hqde_fl.clients.scoring import Scoring
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training, train
from hqde_fl.errors import TaskError

WORDS = 6


def task_of(loss: Any = functional.cross_entropy, **more: Any) -> Task:
    return Task(nn.Identity, lambda i, n: [], lambda: [], loss, **more)


class Given(nn.Module):
    """Returns scores that it holds, by the batch's number."""

    def __init__(self, scores: list[Tensor], axis: int = -1, wrap: Any = None) -> None:
        super().__init__()
        self.scores, self.axis, self.wrap = scores, axis, wrap

    def forward(self, number: int) -> Any:
        scores = self.scores[number].movedim(-1, self.axis)
        return scores if self.wrap is None else self.wrap(scores)


def ragged(members: int, ignored: int = -100) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Return members' scores (n, t, c) of batches of different t, and their targets."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(3, 4), (2, 7), (4, 2), (1, 3)]
    scores = [
        [2 * torch.randn(*shape, WORDS, generator=generator) for shape in shapes]
        for _ in range(members)
    ]
    targets = [torch.randint(WORDS, shape, generator=generator) for shape in shapes]
    for y in targets:
        y[torch.rand(y.shape, generator=generator) < 0.3] = ignored
    targets[2][:] = ignored  # a batch without a target
    return scores, targets


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("wrap", [None, lambda scores: {"logits": scores}], ids=["plain", "dict"])
def test_means_over_ragged_batches_are_those_of_all_tokens(
    members: int, axis: int, wrap: Callable[[Tensor], Any] | None
) -> None:
    """Every token with a label counts once, with the mean of the members' probabilities."""
    scores, targets = ragged(members)
    rows: list[tuple[list[list[float]], int]] = []
    for number, y in enumerate(targets):
        for i in range(y.shape[0]):
            for j in range(y.shape[1]):
                if (label := int(y[i, j])) != -100:
                    members_rows = [softmax(own[number][i, j].tolist()) for own in scores]
                    rows.append((members_rows, label))
    mixed = [([sum(p) / members for p in zip(*own, strict=True)], label) for own, label in rows]
    models = [Given(own, axis, wrap) for own in scores]
    batches = [Batch(number, y, len(y)) for number, y in enumerate(targets)]
    values = evaluate_batches(models, batches, task_of(), calibrated=True)
    nll = -sum(math.log(p[label]) for p, label in mixed) / len(mixed)
    right = sum(p.index(max(p)) == label for p, label in mixed) / len(mixed)
    assert values["loss"] == pytest.approx(nll, rel=1e-5)
    assert values["nll"] == pytest.approx(nll, rel=1e-5)
    assert values["accuracy"] == pytest.approx(right)
    gaps = [0.0] * 15
    for p, label in mixed:
        gaps[math.ceil(max(p) * 15) - 1] += max(p) - (p.index(max(p)) == label)
    assert values["ece"] == pytest.approx(sum(map(abs, gaps)) / len(mixed), rel=1e-4)
    if members > 1:
        alone = [
            sum(own[m].index(max(own[m])) == label for own, label in rows) / len(rows)
            for m in range(members)
        ]
        assert values["member-accuracy"] == pytest.approx(sum(alone) / members)
        pairs = [(a, b) for a in range(members) for b in range(a)]
        differ = [
            sum(own[a].index(max(own[a])) != own[b].index(max(own[b])) for own, _ in rows)
            for a, b in pairs
        ]
        assert values["disagreement"] == pytest.approx(sum(differ) / len(pairs) / len(rows))
        flat = torch.tensor([[p for own, _ in rows for p in own[m]] for m in range(members)])
        correlation = torch.corrcoef(flat.double())
        apart = [1 - abs(float(correlation[a, b])) for a, b in pairs]
        assert values["diversity"] == pytest.approx(sum(apart) / len(pairs), rel=1e-5)


def test_members_with_overflowed_scores_do_not_end_an_evaluation() -> None:
    """The places that such a member scores have no prediction, and means over them are NaN."""
    scores, targets = ragged(3)
    scores[1][0][1, 2] = float("inf")
    targets[0][1, 2] = 0
    batches = [Batch(number, y, len(y)) for number, y in enumerate(targets)]
    values = evaluate_batches([Given(own) for own in scores], batches, task_of())
    assert math.isnan(values["loss"])
    assert math.isnan(values["nll"])
    assert 0 < values["accuracy"] < 1
    scores[2][0][:], targets[0][:] = float("nan"), 1
    assert math.isnan(evaluate_batches([Given(own) for own in scores], batches, task_of())["loss"])


@pytest.mark.parametrize("own_loss", [False, True])
def test_another_ignored_label_counts_nowhere(own_loss: bool) -> None:
    scores, targets = ragged(3, ignored=0)

    def mean_of_tokens(outputs: Tensor, y: Tensor) -> Tensor:
        assert outputs.shape == (*y.shape, WORDS)  # as the model returns them
        return functional.cross_entropy(outputs.flatten(0, 1), y.flatten(), ignore_index=0)

    task = task_of(mean_of_tokens, ignore_index=0) if own_loss else task_of(ignore_index=0)
    models = [Given(own) for own in scores]
    batches = [Batch(number, y, len(y)) for number, y in enumerate(targets)]
    found = evaluate_batches(models, batches, task)
    hidden = [
        Batch(b.inputs, torch.where(b.targets == 0, -100, b.targets), b.size) for b in batches
    ]
    assert found == pytest.approx(evaluate_batches(models, hidden, task_of()), rel=1e-6)


def test_nothing_but_ignored_targets_is_an_error() -> None:
    y = torch.full((4,), -100)
    with pytest.raises(TaskError, match="every target is -100, the ignore_index"):
        evaluate_batches([nn.Identity()], [Batch(torch.zeros(4, 3), y, 4)], task_of())
    data = TensorDataset(torch.zeros(4, 3), y)
    with pytest.raises(TaskError, match="every target is -100, the ignore_index"):
        train(nn.Linear(3, 2), data, task_of(), Training(), torch.Generator())


def test_a_batch_without_targets_leaves_training_alone() -> None:
    """The others are trained on as if it was not there, and the mean loss is over their targets."""
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 0, -100, -100, -100])
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    start = float(functional.cross_entropy(model(x[:3]), y[:3]).detach())
    training = Training(batch_size=1, lr=1e-9)
    loss = train(model, TensorDataset(x, y), task_of(), training, torch.Generator())
    assert loss == pytest.approx(start, rel=1e-5)


# --- what losses get ------------------------------------------------------------------------------


def test_cross_entropy_gets_scores_and_targets_as_torch_wants_them() -> None:
    scores, y = torch.randn(4, 5, 3), torch.arange(20).reshape(4, 5) % 3
    expected = functional.cross_entropy(scores.flatten(0, 1), y.flatten())
    for outputs, targets in [
        (scores, y),
        (scores, y.int()),
        (scores, y.to(torch.uint8)),
        (scores, y[..., None]),
        (scores.flatten(0, 1), y),
        (scores.movedim(-1, 1), y),
        (scores.movedim(-1, 1), y[:, None]),
        ({"logits": scores}, y),
    ]:
        torch.testing.assert_close(Scoring(task_of()).loss(outputs, targets), expected)
    soft = functional.one_hot(y, 3).float()
    stated = Scoring(task_of(class_axis=-1))
    torch.testing.assert_close(stated.loss(scores, soft), expected)
    weighted = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)
    torch.testing.assert_close(
        Scoring(task_of(weighted)).loss(scores, y), weighted(scores.movedim(-1, 1), y)
    )
    torch.testing.assert_close(
        Scoring(task_of(nn.NLLLoss())).loss(scores.log_softmax(-1), y), expected
    )


def test_weights_of_classes_are_moved_to_the_device_of_the_targets() -> None:
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]))
    scores, y = torch.zeros(4, 3, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    assert Scoring(task_of(loss)).loss(scores, y).is_meta
    assert loss.weight is not None
    assert loss.weight.is_meta


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.zeros(8, 3), torch.zeros(7).long()),
        (torch.zeros(8, 3), torch.zeros(8)),
        (torch.zeros(8, 1), torch.zeros(8).long()),
        (torch.zeros(8, 3), torch.zeros(8, 3).long()),
    ],
    ids=["length", "floats", "one score", "one-hot integers"],
)
def test_cross_entropy_names_shapes_that_do_not_fit(outputs: Tensor, targets: Tensor) -> None:
    with pytest.raises(TaskError, match=r"outputs \(8, \d\) and targets \(\d.*\) of \w+"):
        Scoring(task_of()).loss(outputs, targets)


BROADCASTING = {
    "mse": nn.MSELoss(),
    "l1": functional.l1_loss,
    "huber": nn.HuberLoss(),
    "own": lambda o, t: ((o - t) ** 2).mean(),
    "probabilities": lambda o, t: functional.binary_cross_entropy(*torch.broadcast_tensors(o, t)),
    "mapping": lambda o, t: ((o["logits"] - t) ** 2).mean(),
    "own mean": lambda o, t: ((o - t) ** 2).sum() / t.numel(),
    "determination": lambda o, t: ((o - t) ** 2).sum() / ((t - t.mean()) ** 2).sum(),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", BROADCASTING)
@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((8, 1), (8,)), ((8,), (8, 1)), ((8, 1, 3), (8, 3)), ((8, 8, 1), (8, 8))],
)
def test_a_loss_that_compares_every_output_with_every_target_is_refused(
    name: str, outputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    task = task_of(BROADCASTING[name], classifier=False)
    y = torch.rand(targets, generator=torch.Generator().manual_seed(0))
    for values in (torch.zeros(outputs), torch.rand(outputs)):  # also those of a model at zero
        wrapped: Any = {"logits": values} if name == "mapping" else values
        message = rf"outputs \({outputs[0]},.* for targets \({targets[0]},.*squeeze"
        with pytest.raises(TaskError, match=message):
            Scoring(task).loss(wrapped, y)
        reshaped = values.reshape(targets)
        same: Any = {"logits": reshaped} if name == "mapping" else reshaped
        assert Scoring(task).loss(same, y) > 0


PAIRING = {
    "ranks": lambda o, t: (1 - (o - o.mT) * (t[:, None] - t).sign()).relu().mean(),
    "last axis": lambda o, t: ((o.mean(-1) - t) ** 2).mean(),
    "distance": lambda o, t: (o - t[:, None]).norm(dim=-1).mean(),
    "quantiles": lambda o, t: (t[:, None] - o - torch.tensor([0.1, 0.5, 0.9])).abs().mean(),
    "no targets": lambda o, t: (o**2).mean(),
}


@pytest.mark.parametrize("name", PAIRING)
def test_a_loss_that_pairs_outputs_and_targets_itself_is_called(name: str) -> None:
    scoring = Scoring(task_of(PAIRING[name], classifier=False))
    assert scoring.loss(torch.rand(8, 1), torch.rand(8)) > 0


def test_a_metric_that_compares_every_output_with_every_target_is_refused() -> None:
    def squeezed(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.squeeze(1) - targets).abs().mean()

    def mae(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()

    metrics = {"good": squeezed, "mae": mae}
    scoring = Scoring(task_of(squeezed, metrics=metrics, classifier=False))
    x, y = torch.rand(8, 1), torch.rand(8)
    assert scoring.metric("good", x, y) == {"good": float(squeezed(x, y))}
    with pytest.raises(TaskError, match=r"^metric 'mae' compares every output with every target"):
        scoring.metric("mae", x, y)


def test_a_complex_loss_names_what_makes_a_real_number_of_it() -> None:
    scoring = Scoring(task_of(lambda o, t: ((o - t) ** 2).mean(), classifier=False))
    values = torch.rand(8, dtype=torch.complex64)
    with pytest.raises(TaskError, match=r"a real number, found a Tensor \(\) complex64: .abs\(\)"):
        scoring.loss(values, values * 2)


def test_equal_targets_of_a_first_batch_do_not_hide_the_comparison() -> None:
    scoring = Scoring(task_of(lambda o, t: ((o - t) ** 2).mean(), classifier=False))
    scoring.loss(torch.rand(4, 1), torch.zeros(4))
    with pytest.raises(TaskError, match="every output with every target"):
        scoring.loss(torch.rand(4, 1), torch.rand(4))


def test_a_loss_that_removes_the_axis_itself_is_called_as_it_would_be() -> None:
    """It gets the outputs as they are, and draws the same random numbers with and without it."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (functional.dropout(outputs, 0.5).squeeze(1) - targets).abs().mean()

    x, y = torch.rand(8, 1), torch.rand(8)
    torch.manual_seed(4)
    expected = loss(x, y), torch.rand(1)
    torch.manual_seed(4)
    scoring = Scoring(task_of(loss, classifier=False))
    assert (scoring.loss(x, y), torch.rand(1)) == expected


@pytest.mark.parametrize("members", [1, 3])
def test_a_metric_of_ones_own_keeps_its_name(members: int) -> None:
    data = TensorDataset(torch.rand(8, 3), torch.arange(8) % 3)
    metrics = {"accuracy": lambda o, t: 7, "mine": lambda o, t: {"nll": 5, "half": 0.5}}
    models = [nn.Identity() for _ in range(members)]
    batches = [Batch(*data.tensors, 8)]
    values = evaluate_batches(models, batches, task_of(metrics=metrics), calibrated=True)
    assert [values[name] for name in ("accuracy", "nll", "half")] == [7, 5, 0.5]
    assert "ece" in values


# --- one model ------------------------------------------------------------------------------------


def test_one_model_needs_no_class_scores() -> None:
    """Losses and outputs of any kind are evaluated; scores that cannot be computed are left out."""

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x, {"anything": object()}

    task = task_of(lambda outputs, y: (outputs[0] - y).abs().mean(), metrics={})
    batch = [Batch(torch.zeros(4, 2), torch.ones(4, 2), 4)]
    assert evaluate_batches([Pair()], batch, task, calibrated=True) == {"loss": 1.0}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_does_not_depend_on_the_grad_mode_around_it(context: Any) -> None:
    data = TensorDataset(torch.randn(12, 4), torch.arange(12) % 3)

    def trained() -> list[Tensor]:
        with torch.inference_mode(False):
            torch.manual_seed(0)
            model = nn.Linear(4, 3)
        train(model, data, task_of(), Training(epochs=2), torch.Generator().manual_seed(1))
        evaluate([model], data, task_of())
        return list(model.state_dict().values())

    outside = trained()
    with context():
        inside = trained()
        assert not torch.is_grad_enabled()
    assert all(map(torch.equal, outside, inside))
