"""Fashion-MNIST (Xiao et al. 2017) from the four IDX files in a directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.tasks.file_task import ENVIRONMENT, instructions
from hqde_fl.simulations.tasks.idx_images import NETWORKS, IdxImages
from hqde_fl.simulations.tasks.models import Augmented

__all__ = ["ENVIRONMENT", "FashionMnist"]


@final
@dataclass(frozen=True)
class FashionMnist(IdxImages):
    """Fashion-MNIST (28x28, 10 classes) from a directory of IDX files, with a small CNN.

    Parameters
    ----------
    augment : bool, default=False
        Shift training images by up to 4 pixels and mirror them at random; for a CNN only.
    """

    name = "fashion-mnist"
    folders = ("fashion-mnist/data/fashion", "fashion-mnist", "data/fashion")
    source = instructions(
        "The four .gz files are Zalando Research's Fashion-MNIST (MIT licence, "
        "https://github.com/zalandoresearch/fashion-mnist), also in the Debian package "
        "dataset-fashion-mnist.",
        "git clone https://github.com/zalandoresearch/fashion-mnist DIR (in its data/fashion)",
    )
    hub_name = "zalando-datasets/fashion_mnist"

    augment: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment and not (self.model == "lenet" or self.model.endswith("cnn")):
            raise ConfigError(f"FashionMnist.augment needs a CNN, found model {self.model!r}")

    def network(self) -> nn.Module:
        """Build a new network of the kind ``model``, as an ``Augmented`` with ``augment``."""
        model = NETWORKS[self.model]()
        if self.augment and isinstance(model, nn.Sequential):
            return Augmented(model, -self.mean / self.std)
        return model
