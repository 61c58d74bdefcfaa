"""Fashion-MNIST (Xiao et al. 2017) from the four IDX files in a directory."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.base import BuiltinTask
from hqde_fl.simulations.tasks.idx import read_idx
from hqde_fl.simulations.tasks.models import Augmented, cnn, deep_mlp, mlp, wide_cnn

ENVIRONMENT = "HQDE_FL_DATA"
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SOURCE = (
    "The four .gz files are Zalando Research's Fashion-MNIST (MIT licence, "
    "https://github.com/zalandoresearch/fashion-mnist), also in the Debian package "
    f"dataset-fashion-mnist; name their directory by data-dir or {ENVIRONMENT}."
)

Model = Literal["cnn", "mlp", "wide-cnn", "deep-mlp"]


@final
@dataclass(frozen=True)
class FashionMnist(BuiltinTask):
    """Fashion-MNIST (28x28, 10 classes) from a directory of IDX files, with a small CNN.

    Parameters
    ----------
    data_dir : str, default=""
        Directory with the four files, gzipped or not, or its parent if it is called
        ``fashion-mnist``. If empty, the environment variable ``HQDE_FL_DATA`` is used.
    model : {"cnn", "mlp", "wide-cnn", "deep-mlp"}, default="cnn"
        ``cnn``: two 3x3 convolutions (16, 32) and 128 units; ``mlp``: a perceptron with 128 hidden
        units; ``wide-cnn``: two 5x5 convolutions (16, 32) without padding and 128 units;
        ``deep-mlp``: a perceptron with 256, 128 and 64 hidden units and dropout.
    mean, std : float, default=0.0, 1.0
        The values in [0, 1] become (value - mean) / std, where std > 0.
    augment : bool, default=False
        Shift training images by up to 4 pixels and mirror them at random; not for a perceptron.
    share : float, default=1.0
        Fraction of its examples that a client trains on, in (0, 1]; published experiments often set
        the others aside for validation.
    """

    data_dir: str = ""
    model: Model = "cnn"
    mean: float = 0.0
    std: float = 1.0
    augment: bool = False
    share: float = 1.0

    def __post_init__(self) -> None:
        known = get_args(Model)
        if self.model not in known:
            raise ConfigError(
                f"FashionMnist.model must be one of {', '.join(known)}, found {self.model!r}"
            )
        if self.augment and self.model.endswith("mlp"):
            raise ConfigError(f"FashionMnist.augment needs a CNN, found model {self.model!r}")
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ConfigError(
                "FashionMnist needs a finite mean and a finite std > 0, "
                f"found mean={self.mean}, std={self.std}"
            )
        if not 0 < self.share <= 1:
            raise ConfigError(f"FashionMnist.share must be in (0, 1], found {self.share}")

    def locate(self) -> Self:
        """Return the task with the absolute path of the directory of its four files.

        Raises ``DataError`` if the directory or a file is missing, or none is named.
        """
        path = self.data_dir or os.environ.get(ENVIRONMENT, "")
        if not path:
            raise DataError(f"task 'fashion-mnist' needs a directory of files. {SOURCE}")
        outer = Path(path).expanduser().absolute()
        if not outer.is_dir():
            raise DataError(f"task 'fashion-mnist': {outer} is not a directory. {SOURCE}")
        nested = outer / "fashion-mnist"
        directory = nested if nested.is_dir() else outer
        for name in (name for pair in FILES.values() for name in pair):
            _find(directory, name)
        return replace(self, data_dir=str(directory))

    def network(self) -> nn.Module:
        """Build a new network of the kind ``model``, as an ``Augmented`` with ``augment``."""
        if self.model == "mlp":
            return mlp(28 * 28, 128, 10)
        if self.model == "deep-mlp":
            return deep_mlp(28 * 28, 10)
        model = cnn(10) if self.model == "cnn" else wide_cnn(10)
        return Augmented(model, -self.mean / self.std) if self.augment else model

    def labels(self) -> NDArray[Any]:
        """Return the labels of all training images."""
        return np.asarray(_read(self.data_dir, "train")[1])

    def examples(self, indices: Tensor) -> TensorDataset:
        """Return the training images at some indices; with ``share`` < 1 that fraction of them.

        At least one; always the same for the same number of indices.
        """
        images, labels = _read(self.data_dir, "train")
        if self.share < 1:
            order = Seeds(0).numpy("fashion-mnist", "share", len(indices)).permutation(len(indices))
            kept = torch.from_numpy(order)[: max(1, round(self.share * len(indices)))]
            indices = indices[kept.sort().values]
        # Only the bytes are cached: floats take four times the memory.
        dtype = torch.get_default_dtype()
        x = _scaled(images[indices], self.mean, self.std, dtype)
        return TensorDataset(x, labels[indices])

    def test(self) -> TensorDataset:
        """Return the test images and their labels."""
        return _test(self.data_dir, self.mean, self.std, torch.get_default_dtype())


@lru_cache(maxsize=2)
def _test(directory: str, mean: float, std: float, dtype: torch.dtype) -> TensorDataset:
    images, labels = _read(directory, "test")
    return TensorDataset(_scaled(images, mean, std, dtype), labels)


def _scaled(images: Tensor, mean: float, std: float, dtype: torch.dtype) -> Tensor:
    """Scale bytes to [0, 1], subtract the mean and divide by the standard deviation."""
    return (images.to(dtype) / 255 - mean) / std


@lru_cache(maxsize=4)
def _read(directory: str, part: str) -> tuple[Tensor, Tensor]:
    """Read the images (n, 1, 28, 28) as bytes and the labels (n,) of "train" or "test".

    Raises ``DataError`` if a file is missing, or does not hold such images or labels.
    """
    image_file, label_file = (_find(Path(directory), name) for name in FILES[part])
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DataError(f"{image_file} must have the shape (n, 28, 28), found {images.shape}")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{label_file} must have the shape {images.shape[:1]}, one label for each image, "
            f"found {labels.shape}"
        )
    if labels.size and labels.max() > 9:
        raise DataError(f"{label_file} must hold labels from 0 to 9, found {labels.max()}")
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()


def _find(directory: Path, name: str) -> Path:
    for path in (directory / f"{name}.gz", directory / name):
        if path.is_file():
            return path
    raise DataError(f"task 'fashion-mnist': no {name}.gz in {directory}. {SOURCE}")
