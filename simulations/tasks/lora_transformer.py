"""A small transformer whose weights are frozen, with low-rank adapters (LoRA) that are trained."""

from __future__ import annotations

import math
from typing import final

from torch import Tensor, nn
from torch.nn import functional


@final
class LoRALinear(nn.Module):
    """A frozen linear layer W plus a trained product of two thin matrices (Hu et al. 2021).

    The output is ``W x + 2 B A x``. B begins as zero, so that the layer begins as the frozen one.

    Parameters
    ----------
    inputs, outputs : int
        Number of inputs and outputs.
    rank : int
        Rows of A and columns of B, >= 1.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs, bias=False)
        self.lora_a = nn.Linear(inputs, rank, bias=False)
        self.lora_b = nn.Linear(rank, outputs, bias=False)
        nn.init.normal_(self.lora_a.weight, std=1 / math.sqrt(inputs))
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, values: Tensor) -> Tensor:
        """Return the outputs for values (..., inputs)."""
        adapted: Tensor = self.base(values) + 2 * self.lora_b(self.lora_a(values))
        return adapted


@final
class Block(nn.Module):
    """A transformer block, normalised before attention and before the perceptron.

    Parameters
    ----------
    width : int
        Numbers for each token, a multiple of ``heads``.
    heads : int
        Number of attention heads.
    rank : int
        Rank of the adapters of both of the attention's projections.
    """

    def __init__(self, width: int, heads: int, rank: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = LoRALinear(width, 3 * width, rank)
        self.output = LoRALinear(width, width, rank)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Return new values (b, tokens, width) of sequences of tokens."""
        batch, tokens, width = values.shape
        split = (batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = self.query_key_value(self.norm1(values)).view(split).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        attended = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
        values = values + self.output(attended)
        transformed: Tensor = self.down(functional.gelu(self.up(self.norm2(values))))
        return values + transformed


@final
class LoRATransformer(nn.Module):
    """A transformer that classifies sequences; its adapters and its head are trained.

    Everything else is frozen as it was drawn: it stands in for weights that were trained elsewhere.

    Parameters
    ----------
    vocabulary : int
        Number of different tokens.
    length : int
        Tokens of a sequence.
    classes : int
        Number of classes.
    width : int
        Numbers for each token, a multiple of 4.
    layers : int
        Number of blocks, of four attention heads each.
    rank : int
        Rank of the adapters.
    """

    def __init__(
        self, vocabulary: int, length: int, classes: int, width: int, layers: int, rank: int
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, 4, rank) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("lora_" in name or name.startswith("head."))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores (b, classes) of sequences (b, length) of tokens."""
        values = self.blocks(self.tokens(tokens) + self.places.weight)
        scores: Tensor = self.head(self.norm(values).mean(dim=1))
        return scores
