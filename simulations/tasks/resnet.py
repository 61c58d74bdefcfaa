"""Residual networks for 32x32 images (He et al. 2016), with GroupNorm or BatchNorm."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, final

from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["group", "batch"]
MAX_GROUPS = 32
MIN_GROUP = 4
"""Channels of a group of GroupNorm, at least."""


def resnet18(classes: int, norm: Norm) -> nn.Sequential:
    """Build ResNet-18 with a 3x3 stem without pooling, as is usual for 32x32 images."""
    return _resnet((64, 128, 256, 512), 2, classes, norm, projected=True)


def resnet20(classes: int, norm: Norm) -> nn.Sequential:
    """Build ResNet-20, the network of section 4.2 of the paper, whose shortcuts have no weights."""
    return _resnet((16, 32, 64), 3, classes, norm, projected=False)


@final
class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with normalisation, added to a shortcut.

    Parameters
    ----------
    before : int
        Channels of the inputs.
    filters : int
        Channels of the outputs.
    stride : int
        Stride of the first convolution.
    norm : {"group", "batch"}
        The normalisation.
    projected : bool
        A shortcut to other shapes is a 1x1 convolution; else it takes every ``stride``-th pixel and
        fills the further channels with zeros.
    """

    def __init__(
        self, before: int, filters: int, stride: int, norm: Norm, *, projected: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, filters, 3, stride, 1, bias=False)
        self.norm1 = _normalisation(norm, filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = _normalisation(norm, filters)
        self.stride, self.wider = stride, filters - before
        changed = stride != 1 or before != filters
        self.shortcut = (
            nn.Sequential(
                nn.Conv2d(before, filters, 1, stride, bias=False), _normalisation(norm, filters)
            )
            if changed and projected
            else None
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return images (b, filters, height / stride, width / stride)."""
        values = functional.relu(self.norm1(self.conv1(images)))
        values = self.norm2(self.conv2(values))
        if self.shortcut is not None:
            return functional.relu(values + self.shortcut(images))
        kept = images[:, :, :: self.stride, :: self.stride]
        padding = (0, 0, 0, 0, self.wider // 2, self.wider - self.wider // 2)
        return functional.relu(values + functional.pad(kept, padding))


def _resnet(
    widths: tuple[int, ...], blocks: int, classes: int, norm: Norm, *, projected: bool
) -> nn.Sequential:
    """Build a residual network of so many blocks for each width, the first of stride 2."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
        norm=_normalisation(norm, widths[0]),
        relu=nn.ReLU(),
    )
    before = widths[0]
    for stage, filters in enumerate(widths, start=1):
        for number in range(1, blocks + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            layers[f"block{stage}_{number}"] = ResidualBlock(
                before, filters, stride, norm, projected=projected
            )
            before = filters
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    layers["output"] = nn.Linear(before, classes)
    return nn.Sequential(layers)


def _normalisation(norm: Norm, channels: int) -> nn.Module:
    """Return BatchNorm, or GroupNorm (Wu and He 2018) with at most 32 groups of 4 or more."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(min(MAX_GROUPS, channels // MIN_GROUP), channels)
