"""Tasks of 28x28 grey images in the four IDX files of the MNIST family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks import benchmark_models, models, synthetic
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part
from hqde_fl.simulations.tasks.file_task import FileTask
from hqde_fl.simulations.tasks.hugging_face import image_tensor, load_columns
from hqde_fl.simulations.tasks.idx import read_idx

FILES: Mapping[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SHAPE = (1, 28, 28)

Model = Literal[
    "cnn",
    "mlp",
    "wide-cnn",
    "deep-mlp",
    "byzfl-cnn",
    "byzfl-mlp",
    "fedavg-cnn",
    "fedopt-cnn",
    "lenet",
    "logistic",
]
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "cnn": lambda: models.cnn(10),
    "mlp": lambda: models.mlp(28 * 28, 128, 10),
    "wide-cnn": lambda: models.wide_cnn(10),
    "deep-mlp": lambda: models.deep_mlp(28 * 28, 10),
    "byzfl-cnn": lambda: benchmark_models.byzfl_mnist_cnn(10),
    "byzfl-mlp": lambda: models.mlp(28 * 28, 100, 10),
    "fedavg-cnn": lambda: benchmark_models.fedavg_cnn(1, 28, 10),
    "fedopt-cnn": lambda: benchmark_models.fedopt_cnn(1, 28, 10),
    "lenet": lambda: benchmark_models.lenet(1, 28, 10),
    "logistic": lambda: benchmark_models.logistic_regression(28 * 28, 10),
}


@dataclass(frozen=True)
class IdxImages(FileTask):
    """A task of the MNIST family.

    Parameters
    ----------
    model : str, default="cnn"
        ``cnn``: two 3x3 convolutions (16, 32) and 128 units; ``wide-cnn``: two 5x5 convolutions
        (16, 32) without padding and 128 units; ``byzfl-cnn``: two 5x5 convolutions (20, 50) and 500
        units; ``fedavg-cnn``: that of McMahan et al. 2017, (32, 64) and 512 units; ``fedopt-cnn``:
        that of Reddi et al. 2021, 3x3, (32, 64), 128 units, dropout; ``lenet``: that of Flower's
        tutorials, 5x5, (6, 16), 120 and 84 units; ``mlp`` and ``byzfl-mlp``: perceptrons with 128
        and 100 hidden units; ``deep-mlp``: one with 256, 128 and 64 hidden units and dropout;
        ``logistic``: logistic regression.
    mean, std : float, default=0.0, 1.0
        The values in [0, 1] become (value - mean) / std, where std > 0.
    share : float, default=1.0
        Fraction of its examples that a client trains on, in (0, 1]; published experiments often set
        the others aside for validation.
    """

    hub_name: ClassVar[str]
    """Name of the data set on the Hugging Face Hub, with the columns ``image`` and ``label``."""

    model: Model = "cnn"
    mean: float = 0.0
    std: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_known("model", Model)
        kind = type(self).__name__
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ConfigError(
                f"{kind} needs a finite mean and a finite std > 0, "
                f"found mean={self.mean}, std={self.std}"
            )
        if not 0 < self.share <= 1:
            raise ConfigError(f"{kind}.share must be in (0, 1], found {self.share}")

    def network(self) -> nn.Module:
        """Build a new network of the kind ``model``."""
        return NETWORKS[self.model]()

    @final
    def prepare(self, inputs: Tensor) -> Tensor:
        """Return images scaled to [0, 1], then (value - mean) / std."""
        # Only the bytes are cached: floats take four times the memory.
        return (inputs.to(torch.get_default_dtype()) / 255 - self.mean) / self.std

    @final
    def examples(self, indices: Tensor) -> TensorDataset:
        """Return the training images at some indices; with ``share`` < 1 that fraction of them.

        At least one; always the same for the same number of indices.
        """
        if self.share < 1:
            random = Seeds(0).numpy("fashion-mnist", "share", len(indices))
            order = random.permutation(len(indices))
            kept = torch.from_numpy(order)[: max(1, round(self.share * len(indices)))]
            indices = indices[kept.sort().values]
        return super().examples(indices)

    @classmethod
    @final
    def check_files(cls, directory: Path) -> None:
        """Raise ``DataError`` unless all four files are there, gzipped or not."""
        for name in (name for pair in FILES.values() for name in pair):
            cls._find(directory, name)

    @classmethod
    @final
    def read(cls, directory: Path, part: Part) -> ExampleTable:
        """Read the images (n, 1, 28, 28) as bytes and the labels (n,) of a part.

        Raises ``DataError`` if a file is missing, or does not hold such images or labels.
        """
        image_file, label_file = (cls._find(directory, name) for name in FILES[part])
        images, labels = read_idx(image_file), read_idx(label_file)
        if images.ndim != 3 or images.shape[1:] != SHAPE[1:]:
            raise DataError(f"{image_file} must have the shape (n, 28, 28), found {images.shape}")
        if labels.shape != images.shape[:1]:
            raise DataError(
                f"{label_file} must have the shape {images.shape[:1]}, one label for each image, "
                f"found {labels.shape}"
            )
        if labels.size and labels.max() > 9:
            raise DataError(f"{label_file} must hold labels from 0 to 9, found {labels.max()}")
        return ExampleTable(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long())

    @classmethod
    @final
    def fetch(cls, part: Part) -> ExampleTable:
        """Return the images and labels of the data set of Hugging Face."""
        columns = load_columns(cls.hub_name, part, {"image": "image", "label": "label"})
        images = image_tensor(columns["image"], SHAPE, cls.hub_name)
        return ExampleTable(images, torch.as_tensor(columns["label"]).long())

    @classmethod
    @final
    def generate(cls, part: Part, train: int) -> ExampleTable:
        """Return images of ten patterns under noise."""
        return synthetic.images(cls.name, SHAPE, 10, part, train)

    @classmethod
    def _find(cls, directory: Path, name: str) -> Path:
        for path in (directory / f"{name}.gz", directory / name):
            if path.is_file():
                return path
        raise cls.missing(f"{name}.gz", directory)
