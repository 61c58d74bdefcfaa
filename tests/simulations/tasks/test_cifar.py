import os
import pickle

import numpy as np
import pytest
import torch

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.tasks import Cifar10, Cifar100
from hqde_fl.simulations.tasks.cifar_files import read_python
from hqde_fl.simulations.tasks.partition import Iid

RNG = np.random.default_rng(0)
TEN = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def batch(count, classes):
    return RNG.integers(0, 256, (count, 3072), np.uint8), RNG.integers(0, classes, count)


def write_python(folder, names, classes, key):
    folder.mkdir(parents=True)
    batches = {name: batch(4, classes) for name in names}
    for name, (pixels, labels) in batches.items():
        content = {b"data": pixels, key: labels.tolist(), b"filenames": [b"a"] * 4}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return batches


def write_binary(folder, names, classes, coarse):
    folder.mkdir(parents=True)
    batches = {name: batch(4, classes) for name in names}
    for name, (pixels, labels) in batches.items():
        columns = [np.full((4, coarse), 7, np.uint8), labels[:, None].astype(np.uint8), pixels]
        (folder / f"{name}.bin").write_bytes(np.concatenate(columns, axis=1).tobytes())
    return batches


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_both_versions_of_cifar_10_are_read_in_their_order(tmp_path, kind):
    if kind == "python":
        batches = write_python(tmp_path / "cifar-10-batches-py", TEN, 10, b"labels")
    else:
        batches = write_binary(tmp_path / "cifar-10" / "cifar-10-batches-bin", TEN, 10, 0)
    task = Cifar10(str(tmp_path), standardise=False).build(Iid(), 0)
    x, y = task.partition(0, 1).tensors
    assert x.shape == (20, 3, 32, 32)
    assert y.tolist() == np.concatenate([batches[name][1] for name in TEN[:5]]).tolist()
    expected = np.concatenate([batches[name][0] for name in TEN[:5]]).reshape(x.shape) / 255
    torch.testing.assert_close(x, torch.from_numpy(expected).float())
    assert task.test().tensors[1].tolist() == batches["test_batch"][1].tolist()


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar_100_has_fine_labels(tmp_path, kind):
    names = ["train", "test"]
    if kind == "python":
        batches = write_python(tmp_path / "cifar-100-python", names, 100, b"fine_labels")
    else:
        batches = write_binary(tmp_path / "cifar-100-binary", names, 100, 1)
    located = Cifar100(str(tmp_path)).locate()
    for name in names:
        assert located.table(name).labels.tolist() == batches[name][1].tolist()


def test_channels_are_standardised():
    task = Cifar10()
    black, white = (
        task.prepare(torch.full((1, 3, 32, 32), v, dtype=torch.uint8)) for v in (0, 255)
    )
    for channel in range(3):
        mean, std = Cifar10.mean[channel], Cifar10.std[channel]
        torch.testing.assert_close(black[0, channel, 0, 0], torch.tensor(-mean / std))
        torch.testing.assert_close(white[0, channel, 5, 5], torch.tensor((1 - mean) / std))


def test_a_missing_batch_is_named_with_its_directory_and_a_command(tmp_path):
    write_binary(tmp_path / "cifar-10", TEN[:-1], 10, 0)
    message = r"no test_batch or test_batch\.bin in .*cifar-10\. .*curl .*cifar-10-binary\.tar\.gz"
    with pytest.raises(DataError, match=message):
        Cifar10(str(tmp_path)).locate()


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_batch_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Harmful(), b"labels": [1]}))
    with pytest.raises(DataError, match=r"data_batch_1 is no batch .*mkdir is not allowed"):
        read_python(path, "labels")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no batch of CIFAR"),
        (pickle.dumps([1]), "is no batch of CIFAR"),
        (pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [0, 1]}), r"\(2, 5\)"),
        (pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}), "found float64"),
        (
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}),
            "a label for each",
        ),
    ],
    ids=["empty", "list", "shape", "floats", "labels"],
)
def test_damaged_python_batches_are_named(tmp_path, content, message):
    path = tmp_path / "batch"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"batch.*{message}"):
        read_python(path, "labels")


def test_damaged_binary_batches_and_labels_are_named(tmp_path):
    folder = tmp_path / "cifar-10"
    write_binary(folder, TEN, 10, 0)
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin must hold records of 3073 bytes"):
        Cifar10(str(tmp_path)).locate().table("train")
    (folder / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match=r"test_batch\.bin must hold labels from 0 to 9"):
        Cifar10(str(tmp_path)).locate().table("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vgg"}, "model must be one of resnet-20, .*, found 'vgg'"),
        ({"norm": "layer"}, "norm must be one of group, batch, found 'layer'"),
        ({"norm": "batch", "model": "lenet"}, "norm = 'batch' needs a ResNet, found model 'lenet'"),
        ({"augment": True, "model": "logistic"}, "augment needs a CNN, found model 'logistic'"),
        ({"data": "cloud"}, "data must be one of files, hugging-face, synthetic, found 'cloud'"),
        ({"synthetic_examples": 7}, "synthetic_examples must be >= 8, found 7"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=rf"Cifar10\.{message}"):
        Cifar10(**options)
