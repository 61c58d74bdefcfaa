"""The usual models of federated benchmarks, all returning class scores."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def logistic_regression(inputs: int, classes: int) -> nn.Sequential:
    """Build a linear model of flattened inputs, as FLUTE's LR_MNIST."""
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), output=nn.Linear(inputs, classes)))


def lenet(channels: int, side: int, classes: int) -> nn.Sequential:
    """Build the CNN of Flower's tutorials: two 5x5 convolutions (6, 16), then 120 and 84 units."""
    left = ((side - 4) // 2 - 4) // 2
    return nn.Sequential(
        OrderedDict(
            **_convolution(1, channels, 6, 5),
            **_convolution(2, 6, 16, 5),
            flatten=nn.Flatten(),
            **_units(1, 16 * left * left, 120),
            **_units(2, 120, 84),
            output=nn.Linear(84, classes),
        )
    )


def byzfl_mnist_cnn(classes: int) -> nn.Sequential:
    """Build byzfl's CNN for MNIST: two 5x5 convolutions (20, 50), then 500 units."""
    return nn.Sequential(
        OrderedDict(
            **_convolution(1, 1, 20, 5),
            **_convolution(2, 20, 50, 5),
            flatten=nn.Flatten(),
            **_units(1, 50 * 4 * 4, 500),
            output=nn.Linear(500, classes),
        )
    )


def byzfl_cifar_cnn(classes: int) -> nn.Sequential:
    """Build byzfl's CNN for CIFAR: 5x5 convolutions (20, 100, 200), then 512 and 256 units."""
    return nn.Sequential(
        OrderedDict(
            **_convolution(1, 3, 20, 5, padding=2),
            **_convolution(2, 20, 100, 5, padding=2),
            **_convolution(3, 100, 200, 5, padding=2),
            flatten=nn.Flatten(),
            **_units(1, 200 * 4 * 4, 512),
            **_units(2, 512, 256),
            output=nn.Linear(256, classes),
        )
    )


def fedavg_cnn(channels: int, side: int, classes: int, hidden: int = 512) -> nn.Sequential:
    """Build the CNN of FedAvg (McMahan et al. 2017): 5x5 convolutions (32, 64), then 512 units.

    LEAF's CNN for FEMNIST (Caldas et al. 2018) is the same with 2,048 hidden units.
    """
    return nn.Sequential(
        OrderedDict(
            **_convolution(1, channels, 32, 5, padding=2),
            **_convolution(2, 32, 64, 5, padding=2),
            flatten=nn.Flatten(),
            **_units(1, 64 * (side // 4) ** 2, hidden),
            output=nn.Linear(hidden, classes),
        )
    )


def fedopt_cnn(channels: int, side: int, classes: int) -> nn.Sequential:
    """Build the CNN of FedOpt (Reddi et al. 2021): 3x3 convolutions (32, 64), then 128 units.

    It has one max-pooling and dropout of .25 and .5. With CIFAR-10 it has the 1,626,442 parameters
    of pfl-research's benchmark.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 3),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            dropout1=nn.Dropout(0.25),
            flatten=nn.Flatten(),
            **_units(1, 64 * ((side - 4) // 2) ** 2, 128),
            dropout2=nn.Dropout(0.5),
            output=nn.Linear(128, classes),
        )
    )


def _convolution(
    number: int, channels: int, filters: int, size: int, padding: int = 0
) -> dict[str, nn.Module]:
    """Return the layers of a convolution with ReLU and 2x2 max-pooling, by their names."""
    return {
        f"conv{number}": nn.Conv2d(channels, filters, size, padding=padding),
        f"relu{number}": nn.ReLU(),
        f"pool{number}": nn.MaxPool2d(2),
    }


def _units(number: int, inputs: int, outputs: int) -> dict[str, nn.Module]:
    """Return a layer of ReLU units, by the names of its parts."""
    return {f"hidden{number}": nn.Linear(inputs, outputs), f"active{number}": nn.ReLU()}
