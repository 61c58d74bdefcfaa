import gzip
import struct

import numpy as np
import pytest
import torch

from clients.evaluation import evaluate
from clients.training import Training, train
from hqde_fl.errors import ConfigError, DataError
from simulations.tasks import FashionMnist, load_task
from simulations.tasks.partition import Iid

TRAIN, TEST = 40, 20


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(directory, name, array, zipped=True):
    content = idx(array)
    path = directory / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


@pytest.fixture
def directory(tmp_path):
    """Images whose brightness says their class."""
    found = tmp_path / "fashion-mnist"
    found.mkdir()
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        labels = np.arange(count) % 10
        images = np.broadcast_to(labels[:, None, None] * 25, (count, 28, 28))
        write(found, f"{part}-images-idx3-ubyte", images, zipped=part == "train")
        write(found, f"{part}-labels-idx1-ubyte", labels)
    return found


def test_the_files_become_partitions_and_a_test_set(directory):
    task = FashionMnist(str(directory)).build(Iid(), 0)
    parts = [task.partition(i, 4) for i in range(4)]
    assert [len(part) for part in parts] == [10] * 4
    for data in (*parts, task.test()):
        x, y = data.tensors
        assert x.shape[1:] == (1, 28, 28)
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.amax(dim=(1, 2, 3)), y * 25 / 255)
    assert len(task.test()) == TEST
    assert task.test() is task.test()


def test_the_directory_may_be_the_outer_one_or_come_from_the_environment(directory, monkeypatch):
    monkeypatch.delenv("HQDE_FL_DATA", raising=False)
    outer = str(directory.parent)
    assert FashionMnist(outer).locate().data_dir == str(directory)
    for value in (outer, str(directory)):
        monkeypatch.setenv("HQDE_FL_DATA", value)
        assert FashionMnist().locate().data_dir == str(directory)
    monkeypatch.setenv("HQDE_FL_DATA", "/nowhere")
    assert FashionMnist(outer).locate().data_dir == str(directory)
    monkeypatch.chdir(directory.parent)
    assert FashionMnist("fashion-mnist").locate().data_dir == str(directory)


def test_a_task_once_built_keeps_its_directory(directory, monkeypatch):
    monkeypatch.setenv("HQDE_FL_DATA", str(directory))
    task = load_task({"name": "fashion-mnist"}, {"name": "iid"}, 2, 0)
    monkeypatch.delenv("HQDE_FL_DATA")
    assert len(task.partition(0, 2)) == 20


@pytest.mark.parametrize(("model", "size"), [("cnn", 206922), ("mlp", 101770)])
def test_both_models_learn(directory, model, size):
    table = {"name": "fashion-mnist", "data-dir": str(directory), "model": model}
    task = load_task(table, {"name": "iid"}, 1, 0)
    torch.manual_seed(0)
    network = task.model()
    assert sum(p.numel() for p in network.parameters()) == size
    before = evaluate([network], task.test(), task)["loss"]
    training = Training(epochs=3, batch_size=8, lr=0.01)
    train(network, task.partition(0, 1), task, training, torch.Generator().manual_seed(0))
    assert evaluate([network], task.test(), task)["loss"] < before


def test_missing_data_say_where_they_come_from(directory, monkeypatch, tmp_path):
    monkeypatch.delenv("HQDE_FL_DATA", raising=False)
    source = "Zalando Research's Fashion-MNIST .MIT.*dataset-fashion-mnist.*HQDE_FL_DATA"
    with pytest.raises(DataError, match=f"needs a directory of files.*{source}"):
        load_task({"name": "fashion-mnist"}, {"name": "iid"}, 2, 0)
    with pytest.raises(DataError, match=f"absent is not a directory.*{source}"):
        FashionMnist(str(tmp_path / "absent")).locate()
    (directory / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=f"no t10k-labels-idx1-ubyte.gz in .*{source}"):
        FashionMnist(str(directory)).locate()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "train-images-idx3-ubyte",
            np.zeros((TRAIN, 28, 27)),
            r"\(n, 28, 28\), found \(40, 28, 27",
        ),
        ("train-images-idx3-ubyte", np.zeros((TRAIN, 784)), r"found \(40, 784\)"),
        ("train-labels-idx1-ubyte", np.zeros(TRAIN - 1), r"shape \(40,\).* found \(39,\)"),
        ("train-labels-idx1-ubyte", np.full(TRAIN, 10), "labels from 0 to 9, found 10"),
    ],
)
def test_files_that_do_not_fit_are_named(directory, name, array, message):
    write(directory, name, array)
    with pytest.raises(DataError, match=f"{name}.gz must .*{message}"):
        FashionMnist(str(directory)).build(Iid(), 0).partition(0, 2)


def test_an_unknown_model_is_refused():
    with pytest.raises(ConfigError, match="must be 'cnn' or 'mlp', found 'gpt'"):
        FashionMnist(model="gpt")
    with pytest.raises(ConfigError, match=r"fashion-mnist\.model"):
        load_task({"name": "fashion-mnist", "model": "gpt"}, {"name": "iid"}, 2, 0)
