"""The models of the built-in tasks."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(inputs: int, hidden: int, classes: int) -> nn.Module:
    """A perceptron with one hidden layer of ReLU units."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden=nn.Linear(inputs, hidden),
            relu=nn.ReLU(),
            output=nn.Linear(hidden, classes),
        )
    )


def cnn(classes: int) -> nn.Sequential:
    """Two 3x3 convolutions (16, 32), each max-pooled, and 128 units, for 28x28 grey images."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 3, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            hidden=nn.Linear(32 * 7 * 7, 128),
            relu3=nn.ReLU(),
            output=nn.Linear(128, classes),
        )
    )


def wide_cnn(classes: int) -> nn.Sequential:
    """Two unpadded 5x5 convolutions (16, 32), each max-pooled, and 128 units, for 28x28 images.

    Its weights lie with the channels last, in which a processor convolves faster.
    """
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            hidden=nn.Linear(32 * 4 * 4, 128),
            relu3=nn.ReLU(),
            output=nn.Linear(128, classes),
        )
    )
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def deep_mlp(inputs: int, classes: int) -> nn.Module:
    """A perceptron with 256, 128 and 64 hidden ReLU units, a fifth of them dropped in training."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(((inputs, 256), (256, 128), (128, 64)), start=1):
        layers[f"hidden{number}"] = nn.Linear(before, after)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"dropout{number}"] = nn.Dropout(0.2)
    layers["output"] = nn.Linear(64, classes)
    return nn.Sequential(layers)


@final
class Augmented(nn.Sequential):
    """A model whose training images are moved by up to 4 pixels and mirrored, each at random.

    What moves in from outside is ``fill``. Images that are not trained on stay as they are. The
    names of the model's weights are its own.

    Parameters
    ----------
    model : nn.Sequential
        Takes (b, channels, height, width).
    fill : float
        The value of a black pixel.
    """

    def __init__(self, model: nn.Sequential, fill: float) -> None:
        super().__init__(OrderedDict(model.named_children()))
        self.fill = fill

    def forward(self, input: Tensor) -> Tensor:
        """The model's outputs."""
        seen = moved_and_mirrored(input, self.fill) if self.training else input
        for layer in self:
            seen = layer(seen)
        return seen


def moved_and_mirrored(images: Tensor, fill: float, reach: int = 4) -> Tensor:
    """Each image moved by up to ``reach`` pixels either way, every second one mirrored, at random.

    Numbers are drawn from torch's global generator.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (reach, reach, reach, reach), value=fill)
    down, right = torch.randint(0, 2 * reach + 1, (2, count, 1), device=images.device)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    mirrored = torch.rand(count, 1, device=images.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    each = torch.arange(count, device=images.device)[:, None, None]
    # Indices around a slice put the channels last.
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
