"""Data of the Hugging Face Hub: with data sets in memory in its place, nothing is fetched."""

import datasets
import flwr_datasets
import numpy as np
import pytest
from PIL import Image

from hqde_fl.errors import DataError
from hqde_fl.simulations.tasks import Adult, Cifar100, Femnist, Mnist, Shakespeare
from hqde_fl.simulations.tasks.adult import CATEGORIES, NUMBERS
from hqde_fl.simulations.tasks.file_task import _table

SETS = {}


class Hub:
    """Flower Datasets' class with the data sets of ``SETS`` instead of a network."""

    def __init__(self, *, dataset, partitioners, shuffle):
        assert partitioners == {}
        assert shuffle is False
        if dataset not in SETS:
            raise ConnectionError("no route\nto the Hub")
        self.splits = SETS[dataset]

    def load_split(self, split):
        return self.splits[split]


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    monkeypatch.setattr(flwr_datasets, "FederatedDataset", Hub)
    SETS.clear()
    _table.cache_clear()
    yield
    _table.cache_clear()


def pictures(shape, count=10, name="image", **columns):
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    rows = {name: [Image.fromarray(picture) for picture in pixels], **columns}
    return datasets.Dataset.from_dict(rows).cast_column(name, datasets.Image()), pixels


def test_mnist_and_cifar_are_fetched():
    grey, pixels = pictures((28, 28), label=[*range(10)])
    SETS["ylecun/mnist"] = {"train": grey, "test": grey.select(range(3))}
    task = Mnist(data="hugging-face").locate()
    assert np.array_equal(task.table("train").inputs[:, 0].numpy(), pixels)
    assert task.table("test").labels.tolist() == [0, 1, 2]
    colour, pixels = pictures((32, 32, 3), name="img", fine_label=[*range(90, 100)])
    SETS["uoft-cs/cifar100"] = {"train": colour, "test": colour}
    table = Cifar100(data="hugging-face").table("train")
    assert np.array_equal(table.inputs.numpy(), np.moveaxis(pixels, -1, 1))
    assert table.labels.tolist() == [*range(90, 100)]


def test_leafs_data_are_fetched_with_their_users():
    writers = ["f0"] * 10
    SETS["flwrlabs/femnist"] = {
        "train": pictures((28, 28), character=[*range(10)], writer_id=writers)[0]
    }
    task = Femnist(data="hugging-face")
    assert (len(task.table("train")), len(task.table("test"))) == (9, 1)
    assert set(task.table("train").columns["user"].tolist()) == {"f0"}
    rows = {"x": ["a" * 80] * 10, "y": [*"bcdefghijk"], "character_id": ["THE_GHOST"] * 10}
    SETS["flwrlabs/shakespeare"] = {"train": datasets.Dataset.from_dict(rows)}
    text = Shakespeare(data="hugging-face")
    assert len(text.table("train").labels.unique()) == 9
    assert text.table("test").columns["user"].tolist() == ["THE_GHOST"]


def test_adult_is_fetched_and_a_fifth_of_it_tests():
    rows = {name.replace("-", "."): [*range(10)] for name in NUMBERS}
    rows |= {name.replace("-", "."): [known[0]] * 10 for name, known in CATEGORIES.items()}
    rows["income"] = ["<=50K", ">50K"] * 5
    SETS["scikit-learn/adult-census-income"] = {"train": datasets.Dataset.from_dict(rows)}
    task = Adult(data="hugging-face")
    assert (len(task.table("train")), len(task.table("test"))) == (8, 2)


def test_what_cannot_be_fetched_is_one_line():
    message = r"^cannot fetch the data set 'ylecun/mnist' \(train\): no route to the Hub$"
    with pytest.raises(DataError, match=message):
        Mnist(data="hugging-face").table("train")
    SETS["ylecun/mnist"] = {"train": datasets.Dataset.from_dict({"label": [1]})}
    with pytest.raises(DataError, match="must have the column 'image', found label"):
        Mnist(data="hugging-face").table("train")
    SETS["ylecun/mnist"] = {"train": pictures((27, 28), label=[0] * 10)[0]}
    with pytest.raises(DataError, match=r"the shape \(1, 28, 28\), found \(1, 27, 28\)"):
        Mnist(data="hugging-face").table("train")
