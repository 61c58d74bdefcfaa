"""Kinds of models, each as a small task with what is known of its entries' roles.

``KINDS`` holds them by name. A federation learns one of them in a fraction of a second: the data
are synthetic, a few examples for each client. In an experiment: ``[task] name =
"tests.contracts.models:kind_task"`` with ``kind = "lora"``.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

from hqde_fl.clients.task import Metric, Task, accuracy

EXAMPLES = 16
"""Examples of a client: two batches."""
BATCH = 8
CLASSES = 3
FEATURES = 4
VOCABULARY = 7
SCALES = (0.01, 0.1, 0.3, 1.0, 3.0, 30.0, 300.0, 1000.0)
"""The scales of eight raw columns."""

Examples = Callable[[int, int], TensorDataset]
"""(number of examples, seed) -> examples."""


@dataclass(frozen=True)
class Kind:
    """A kind of model with its data, and the roles of its entries as its author knows them.

    Names may be patterns such as ``"*.running_var"``; an entry that no pattern names is trained.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds the model.
    examples : Callable[[int, int], TensorDataset]
        (number of examples, seed) -> examples.
    frozen : tuple[str, ...]
        Entries that nobody changes: frozen parameters and constant buffers.
    statistics : tuple[str, ...]
        Entries that the model computes from its data or its weights.
    unnamed_statistics : tuple[str, ...]
        Statistics whose name does not say so.
    counters : tuple[str, ...]
        Integer and boolean buffers.
    thawing : tuple[str, ...]
        Parameters that are frozen at first and trained later.
    tied : Mapping[str, str]
        Second name of a tensor -> its first name.
    loss : Callable[[Any, Any], Tensor]
        The task's loss.
    metrics : Mapping[str, Metric]
        The task's metrics.
    classifier : bool
        True if the outputs are class scores.
    """

    model: Callable[[], nn.Module]
    examples: Examples
    frozen: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    unnamed_statistics: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    thawing: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    loss: Callable[[Any, Any], Tensor] = functional.cross_entropy
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"accuracy": accuracy})
    classifier: bool = True

    def task(self) -> Task:
        """Return the task: data that differ from client to client, and a test set."""
        return Task(
            model=self.model,
            partition=partial(_client_examples, self.examples),
            test=partial(self.examples, EXAMPLES, 0),
            loss=self.loss,
            metrics=self.metrics,
            classifier=self.classifier,
        )

    def trained(self, names: Iterable[str]) -> list[str]:
        """Return the names of the entries that are trained, those that thaw among them."""
        others = (*self.frozen, *self.statistics, *self.unnamed_statistics, *self.counters)
        return [name for name in names if not matching([name], others)]


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the names that fit one of the patterns."""
    patterns = tuple(patterns)
    return [n for n in names if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)]


def kind_task(partitions: int, seed: int, partition: Any, kind: str) -> Task:
    """Return the task of a kind, as experiments call it; its data do not depend on the seed."""
    return KINDS[kind].task()


def _client_examples(examples: Examples, number: int, count: int) -> TensorDataset:
    return examples(EXAMPLES, 1000 * count + number + 1)


# --- data -----------------------------------------------------------------------------------------


def blobs(
    number: int,
    seed: int,
    shape: tuple[int, ...] = (FEATURES,),
    dtype: torch.dtype = torch.float32,
) -> TensorDataset:
    """Return examples of three classes around three points, of a shape."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(99))
    y = torch.arange(number) % CLASSES
    x = 2 * centres[y] + torch.randn(number, *shape, generator=generator)
    return TensorDataset(x.to(dtype), y)


def raw_columns(number: int, seed: int) -> TensorDataset:
    """Return examples with columns of very different scales, each far from zero."""
    x, y = blobs(number, seed, (len(SCALES),)).tensors
    return TensorDataset((x + 5) * torch.tensor(SCALES), y)


def pixels(number: int, seed: int) -> TensorDataset:
    """Return grey images of 6 x 6 pixels with values from 0 to 255."""
    x, y = blobs(number, seed, (1, 6, 6)).tensors
    return TensorDataset((127 + 40 * x).clamp(0, 255).round(), y)


def sentences(number: int, seed: int) -> TensorDataset:
    """Return sentences of tokens and the next token at each place."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(VOCABULARY, (number, 1), generator=generator)
    noise = torch.randint(2, (number, 7), generator=generator)
    tokens = (start + 2 * torch.arange(7) + noise) % VOCABULARY
    return TensorDataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def line(number: int, seed: int) -> TensorDataset:
    """Return points with noise on a line through the origin."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, 1, generator=generator)
    return TensorDataset(x, 2 * x + 0.1 * torch.randn(number, 1, generator=generator))


# --- losses ---------------------------------------------------------------------------------------


def token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of next tokens."""
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def wide_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of half-precision scores, computed in float32."""
    return functional.cross_entropy(outputs.float(), targets)


def logits_loss(outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Return the cross-entropy of the scores in a mapping."""
    return functional.cross_entropy(outputs["logits"], targets)


def logits_accuracy(outputs: Mapping[str, Tensor], targets: Tensor) -> float:
    """Return the accuracy of the scores in a mapping."""
    return accuracy(outputs["logits"], targets)


# --- models ---------------------------------------------------------------------------------------


def perceptron(features: int = FEATURES) -> nn.Sequential:
    """Return two linear layers."""
    return nn.Sequential(nn.Linear(features, 6), nn.Tanh(), nn.Linear(6, CLASSES))


def perceptron_of(dtype: torch.dtype) -> nn.Module:
    """Return two linear layers of a dtype."""
    return perceptron().to(dtype)


def batch_norm_network() -> nn.Module:
    """Return a convolution between batch normalisations, the first one over raw pixels."""
    return nn.Sequential(
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


def group_norm_network() -> nn.Module:
    """Return a convolution with group normalisation."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES)
    )


def raw_column_network() -> nn.Module:
    """Return a perceptron after batch normalisation of raw columns."""
    return nn.Sequential(nn.BatchNorm1d(len(SCALES)), *perceptron(len(SCALES)))


class LSTMLanguageModel(nn.Module):
    """An embedding, an LSTM and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5)
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.head = nn.Linear(6, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0])


class StatefulGRU(nn.Module):
    """A GRU that goes on with the hidden state of the batch before, kept in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        fits = self.state is not None and self.state.shape[1] == len(x)
        outputs, state = self.gru(x, self.state if fits else None)
        self.state = state.detach()
        return self.head(outputs[:, -1])


class TiedTransformer(nn.Module):
    """A causal transformer of one block; its output layer shares the weights of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        width, length = 8, 6
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(0.1 * torch.randn(length, width))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.ones(length, length, dtype=torch.bool).tril())

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        query, key, value = self.query_key_value(x).chunk(3, dim=-1)
        x = x + self.mix(
            functional.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        )
        return self.head(self.norm(x))


class LowRankLinear(nn.Module):
    """A frozen linear layer with a trained update of rank two, at first zero (LoRA)."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).to(dtype).requires_grad_(False)
        self.down = nn.Parameter(0.5 * torch.randn(2, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x.to(self.base.weight.dtype)).to(x.dtype) + x @ self.down.T @ self.up.T


def low_rank_network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return two linear layers whose weights, of a dtype, are frozen beside their adapters."""
    return nn.Sequential(
        LowRankLinear(FEATURES, 6, dtype), nn.Tanh(), LowRankLinear(6, CLASSES, dtype)
    )


def frozen_backbone() -> nn.Module:
    """Return a frozen linear layer and normalisation before a trained linear layer."""
    backbone = nn.Sequential(nn.Linear(FEATURES, 6), nn.LayerNorm(6), nn.Tanh())
    return nn.Sequential(backbone.requires_grad_(False), nn.Linear(6, CLASSES))


def frozen_batch_norm() -> nn.Module:
    """Return a frozen backbone whose batch normalisation still takes running statistics."""
    backbone = nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6), nn.Tanh())
    return nn.Sequential(backbone.requires_grad_(False), nn.Linear(6, CLASSES))


class GradualUnfreezing(nn.Module):
    """A network that trains its body only after some forward passes, which it counts itself."""

    PASSES = 3

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(FEATURES, 6).requires_grad_(False)
        self.head = nn.Linear(6, CLASSES)
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
            self.body.requires_grad_(bool(self.passes > self.PASSES))
        return self.head(torch.tanh(self.body(x)))


class ComplexNetwork(nn.Module):
    """Rotates pairs of inputs by constant angles (rotary positions) and filters them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        places, pairs = 4, 2
        angles = torch.outer(torch.arange(float(places)), torch.tensor([1.0, 0.1]))
        self.register_buffer("rotary", torch.polar(torch.ones_like(angles), angles).to(dtype))
        self.filter = nn.Parameter(0.5 * torch.randn(places, pairs, dtype=dtype))
        self.head = nn.Linear(2 * places * pairs, CLASSES).to(dtype.to_real())

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return self.head(torch.view_as_real(pairs * self.rotary * self.filter).flatten(1))


class ScalarParameters(nn.Module):
    """A linear layer with a scale and a temperature without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.temperature = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.scale * x) / self.temperature.exp()


class EmptyParameter(nn.Module):
    """A linear layer with an optional part that has no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.empty(0, FEATURES))
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + self.prompt.sum(dim=0))


class Slope(nn.Module):
    """A single parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x


class ConstantBuffers(nn.Module):
    """A perceptron after the standardisation of its inputs by constants."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor([0.1, -0.2, 0.3, 1e-6]))
        self.register_buffer("width", torch.tensor([1.0, 2.0, 0.5, 1.0 / 3]))
        self.register_buffer("epsilon", torch.tensor(1e-5))
        self.layers = perceptron()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x - self.centre) / (self.width + self.epsilon))


class MappingOutput(nn.Module):
    """Returns a mapping with scores, as models of other libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = perceptron()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layers(x)}


class WithAverage(nn.Module):
    """A perceptron with an exponential moving average of its weights, which evaluation uses."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = perceptron()
        self.ema = copy.deepcopy(self.layers).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.ema(x)
        with torch.no_grad():
            pairs = zip(self.ema.parameters(), self.layers.parameters(), strict=True)
            for average, parameter in pairs:
                average.lerp_(parameter, 0.2)
        return self.layers(x)


class IntegerBuffers(nn.Module):
    """A linear layer that counts its inputs' largest columns and marks those it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("histogram", torch.zeros(FEATURES, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(FEATURES, dtype=torch.bool))
        self.register_buffer("version", torch.tensor(3, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.histogram += torch.bincount(x.argmax(dim=1), minlength=FEATURES)
            self.seen |= self.histogram > 0
        return self.layer(x)


def spectral_norm_network() -> nn.Module:
    """Return a perceptron whose first layer has spectral normalisation."""
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(FEATURES, 6)), nn.Tanh(), nn.Linear(6, CLASSES)
    )


class OwnStatistics(nn.Module):
    """Centres its inputs by a running mean under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(FEATURES))
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.centre.lerp_(x.mean(dim=0), 0.3)
        return self.layer(x - self.centre)


BATCH_NORM = ("*running_mean", "*running_var")
COUNTED = ("*num_batches_tracked",)

KINDS: dict[str, Kind] = {
    "mlp": Kind(perceptron, blobs),
    "batch-norm-2d": Kind(batch_norm_network, pixels, statistics=BATCH_NORM, counters=COUNTED),
    "group-norm": Kind(group_norm_network, partial(blobs, shape=(1, 6, 6))),
    "raw-columns": Kind(raw_column_network, raw_columns, statistics=BATCH_NORM, counters=COUNTED),
    "lstm": Kind(LSTMLanguageModel, sentences, loss=token_loss, metrics={}, classifier=False),
    "gru-state": Kind(StatefulGRU, partial(blobs, shape=(5, 3))),
    "tied-transformer": Kind(
        TiedTransformer,
        sentences,
        counters=("mask",),
        tied={"head.weight": "embedding.weight"},
        loss=token_loss,
        metrics={},
        classifier=False,
    ),
    "lora": Kind(low_rank_network, blobs, frozen=("*.base.*",)),
    "lora-bf16": Kind(partial(low_rank_network, torch.bfloat16), blobs, frozen=("*.base.*",)),
    "frozen-backbone": Kind(frozen_backbone, blobs, frozen=("0.*",)),
    "frozen-batch-norm": Kind(
        frozen_batch_norm,
        blobs,
        frozen=("0.*.weight", "0.*.bias"),
        statistics=BATCH_NORM,
        counters=COUNTED,
    ),
    "gradual-unfreezing": Kind(GradualUnfreezing, blobs, counters=("passes",), thawing=("body.*",)),
    "bf16": Kind(
        partial(perceptron_of, torch.bfloat16),
        partial(blobs, dtype=torch.bfloat16),
        loss=wide_loss,
    ),
    "f16": Kind(
        partial(perceptron_of, torch.float16), partial(blobs, dtype=torch.float16), loss=wide_loss
    ),
    "f64": Kind(partial(perceptron_of, torch.float64), partial(blobs, dtype=torch.float64)),
    "complex64": Kind(
        partial(ComplexNetwork, torch.complex64), partial(blobs, shape=(4, 4)), frozen=("rotary",)
    ),
    "complex128": Kind(
        partial(ComplexNetwork, torch.complex128),
        partial(blobs, shape=(4, 4), dtype=torch.float64),
        frozen=("rotary",),
    ),
    "scalar-parameters": Kind(ScalarParameters, blobs),
    "empty-parameter": Kind(EmptyParameter, blobs, frozen=("prompt",)),
    "single-parameter": Kind(Slope, line, loss=functional.mse_loss, metrics={}, classifier=False),
    "constant-buffers": Kind(ConstantBuffers, blobs, frozen=("centre", "width", "epsilon")),
    "mapping-output": Kind(
        MappingOutput, blobs, loss=logits_loss, metrics={"accuracy": logits_accuracy}
    ),
    "moving-average": Kind(WithAverage, blobs, statistics=("ema.*",)),
    "integer-buffers": Kind(IntegerBuffers, blobs, counters=("histogram", "seen", "version")),
    "spectral-norm": Kind(spectral_norm_network, blobs, statistics=("*._u", "*._v")),
    "own-statistics": Kind(OwnStatistics, blobs, unnamed_statistics=("centre",)),
}
