"""Kinds of tasks, each with the shapes that its model's outputs and its targets have.

``KINDS`` holds them by name. In an experiment: ``[task] name = "tests.contracts.tasks:kind_task"``
with ``kind = "segmentation"``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, TensorDataset

from hqde_fl.clients.task import Task

EXAMPLES, WORDS, LENGTH, CLASSES = 24, 11, 5, 3
BORDER = 255
"""The class of pixels that count as none."""


@dataclass(frozen=True)
class TaskKind:
    """A kind of task.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds the model.
    examples : Callable[[int], Dataset]
        Seed -> ``EXAMPLES`` examples.
    prediction : tuple[int, ...]
        Shape of the predictions for all examples.
    loss : Callable, optional
        The loss; cross entropy if not given.
    collate : Callable, optional
        Makes batches of the examples.
    classifier : bool
        True if the outputs are class scores.
    """

    model: Callable[[], nn.Module]
    examples: Callable[[int], Dataset[Any]]
    prediction: tuple[int, ...]
    loss: Any = functional.cross_entropy
    collate: Any = None
    classifier: bool = True

    def task(self) -> Task:
        """Return the task: data that differ from client to client, and a test set."""
        return Task(
            model=self.model,
            partition=partial(_partition, self.examples),
            test=partial(self.examples, 0),
            loss=self.loss,
            collate=self.collate,
            classifier=self.classifier,
        )


def kind_task(partitions: int, seed: int, partition: Any, kind: str) -> Task:
    """Return the task of a kind, as experiments call it."""
    return KINDS[kind].task()


def _partition(examples: Callable[[int], Dataset[Any]], number: int, count: int) -> Dataset[Any]:
    return examples(number + 1)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- data -----------------------------------------------------------------------------------------


def next_words(seed: int, length: int = LENGTH) -> TensorDataset:
    """Return sequences of words and the next word at each place."""
    start = torch.randint(WORDS, (EXAMPLES, 1), generator=_generator(seed))
    words = (start + 2 * torch.arange(length + 1)) % WORDS
    return TensorDataset(words[:, :-1].contiguous(), words[:, 1:].contiguous())


class RaggedWords(Dataset[Any]):
    """Sequences of different lengths, the shorter ones first."""

    def __init__(self, seed: int) -> None:
        lengths = [3 + index // 6 for index in range(EXAMPLES)]
        rows = zip(*next_words(seed, max(lengths)).tensors, strict=True)
        self.rows = [(x[:n], y[:n]) for n, (x, y) in zip(lengths, rows, strict=True)]

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows[index]


def padded(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return a batch of sequences; the targets of the padding do not count."""
    return (
        pad_sequence([x for x, _ in rows], batch_first=True),
        pad_sequence([y for _, y in rows], batch_first=True, padding_value=-100),
    )


def pictures(seed: int, hidden: int = 1) -> TensorDataset:
    """Return pictures of 4 x 6 pixels and the class of each pixel, unknown along the border."""
    classes = torch.randint(CLASSES, (EXAMPLES, 4, 6), generator=_generator(seed))
    x = functional.one_hot(classes, CLASSES).movedim(-1, 1).float()
    classes[:, :hidden] = BORDER
    return TensorDataset(x, classes)


def hidden_pictures(seed: int) -> TensorDataset:
    """Return pictures of which a third only has pixels of a known class, none the first one."""
    x, y = pictures(seed).tensors
    y[: 2 * EXAMPLES // 3] = BORDER
    return TensorDataset(x, y)


def tags(seed: int) -> TensorDataset:
    """Return points and which of three properties each has."""
    x = torch.randn(EXAMPLES, 4, generator=_generator(seed))
    return TensorDataset(x, (x[:, :3] > 0).float())


def line(seed: int, column: bool = False) -> TensorDataset:
    """Return points and their values on a line, as (n,) or (n, 1)."""
    x = torch.randn(EXAMPLES, 4, generator=_generator(seed))
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0])
    return TensorDataset(x, y[:, None] if column else y)


def texts(seed: int) -> datasets.Dataset:
    """Return sentences with their text, as Hugging Face's data sets have it."""
    x, y = next_words(seed).tensors
    columns = {
        "text": [" ".join(map(str, row)) for row in x.tolist()],
        "words": x.tolist(),
        "label": (y[:, 0] % CLASSES).tolist(),
    }
    return datasets.Dataset.from_dict(columns)


# --- models ---------------------------------------------------------------------------------------


class LanguageModel(nn.Module):
    """An embedding, an LSTM and a layer that scores the next word."""

    def __init__(self, classes: int = WORDS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, words: Tensor) -> Any:
        return self.head(self.lstm(self.embedding(words))[0])


class ChannelsFirst(LanguageModel):
    """The language model with the scores on axis 1."""

    def forward(self, words: Tensor) -> Any:
        return super().forward(words).transpose(1, 2)


class Flattened(LanguageModel):
    """The language model with a row of scores for each word of the batch."""

    def forward(self, words: Tensor) -> Any:
        return super().forward(words).flatten(0, 1)


class WithLogits(LanguageModel):
    """The language model with its scores in an object, as those of Hugging Face."""

    def forward(self, words: Tensor) -> Any:
        return SimpleNamespace(logits=super().forward(words), past=None)


class TextClassifier(LanguageModel):
    """Scores a class for a whole sentence."""

    def __init__(self) -> None:
        super().__init__(CLASSES)

    def forward(self, words: Tensor) -> Any:
        return {"logits": super().forward(words)[:, -1]}


class Vector(nn.Linear):
    """A linear model whose outputs are (n,)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)


class Interval(nn.Linear):
    """A linear model that returns two numbers by name."""

    def forward(self, x: Tensor) -> Any:
        low, high = super().forward(x).unbind(1)
        return {"logits": (low + high) / 2, "width": high - low, "kind": "interval"}


def interval_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Return the error of the middle and the width of intervals."""
    return functional.mse_loss(outputs["logits"], targets) + 0.01 * outputs["width"].abs().mean()


TOKENS = (EXAMPLES, LENGTH)
PIXELS = (EXAMPLES, 4, 6)
BORDERED = nn.CrossEntropyLoss(ignore_index=BORDER)

KINDS: dict[str, TaskKind] = {
    "words last": TaskKind(LanguageModel, next_words, TOKENS),
    "words first": TaskKind(ChannelsFirst, next_words, TOKENS),
    "words flattened": TaskKind(Flattened, next_words, (EXAMPLES * LENGTH,)),
    "logits": TaskKind(WithLogits, next_words, TOKENS),
    "ragged": TaskKind(LanguageModel, RaggedWords, (EXAMPLES, 6), collate=padded),
    "segmentation": TaskKind(partial(nn.Conv2d, 3, 3, 1), pictures, PIXELS, BORDERED),
    "hidden": TaskKind(partial(nn.Conv2d, 3, 3, 1), hidden_pictures, PIXELS, BORDERED),
    "multi-label": TaskKind(
        partial(nn.Linear, 4, 3),
        tags,
        (EXAMPLES, 3),
        functional.binary_cross_entropy_with_logits,
        classifier=False,
    ),
    "vector": TaskKind(partial(Vector, 4, 1), line, (EXAMPLES,), nn.MSELoss(), classifier=False),
    "column": TaskKind(
        partial(nn.Linear, 4, 1),
        partial(line, column=True),
        (EXAMPLES, 1),
        nn.HuberLoss(),
        classifier=False,
    ),
    "interval": TaskKind(
        partial(Interval, 4, 2), line, (EXAMPLES,), interval_loss, classifier=False
    ),
    "text": TaskKind(TextClassifier, texts, (EXAMPLES,)),
}
