"""The models of the built-in tasks."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(inputs: int, hidden: int, classes: int) -> nn.Module:
    """Build a perceptron with one hidden layer of ReLU units."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden=nn.Linear(inputs, hidden),
            relu=nn.ReLU(),
            output=nn.Linear(hidden, classes),
        )
    )


def cnn(classes: int) -> nn.Sequential:
    """Build a CNN of two 3x3 convolutions (16, 32) with max-pooling and 128 units, for 28x28."""
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
    """Build a CNN of two unpadded 5x5 convolutions (16, 32) with max-pooling and 128 units.

    It takes 28x28 grey images. Its weights are stored with the channels last, which makes
    convolutions on a CPU faster.
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
    """Build a perceptron with 256, 128 and 64 hidden ReLU units and a dropout of 0.2."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(((inputs, 256), (256, 128), (128, 64)), start=1):
        layers[f"hidden{number}"] = nn.Linear(before, after)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"dropout{number}"] = nn.Dropout(0.2)
    layers["output"] = nn.Linear(64, classes)
    return nn.Sequential(layers)


@final
class Augmented(nn.Sequential):
    """A model that shifts its training images by up to 4 pixels and mirrors them, at random.

    Images are not changed in evaluation mode. The model's weights keep their names.

    Parameters
    ----------
    model : nn.Sequential
        A model of images (b, channels, height, width).
    fill : float
        Value of the pixels outside of an image, that of a black pixel.
    """

    def __init__(self, model: nn.Sequential, fill: float) -> None:
        super().__init__(OrderedDict(model.named_children()))
        self.fill = fill

    def forward(self, input: Tensor) -> Tensor:
        """Return the model's outputs for augmented images in training, else for the images."""
        values = shift_and_mirror(input, self.fill) if self.training else input
        for layer in self:
            values = layer(values)
        return values


def shift_and_mirror(images: Tensor, fill: float, max_shift: int = 4) -> Tensor:
    """Return images (b, c, h, w), each shifted by up to ``max_shift`` pixels in both directions.

    Each is also mirrored from left to right with probability 1/2. Pixels from outside of the image
    get the value ``fill``. Random numbers are drawn from torch's global generator.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (max_shift,) * 4, value=fill)
    down, right = torch.randint(0, 2 * max_shift + 1, (2, count, 1), device=images.device)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    mirrored = torch.rand(count, 1, device=images.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    index = torch.arange(count, device=images.device)[:, None, None]
    # Indices on both sides of a slice move the sliced dimension, the channels, to the end.
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
