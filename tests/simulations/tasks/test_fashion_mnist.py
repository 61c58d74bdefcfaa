import gzip
import struct

import numpy as np
import pytest
import torch

from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.training import Training, train
from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.tasks import FashionMnist, load_task
from hqde_fl.simulations.tasks.models import shift_and_mirror
from hqde_fl.simulations.tasks.partition import Iid

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
    """Return a directory of images whose brightness depends on their class."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        labels = np.arange(count) % 10
        images = np.broadcast_to(labels[:, None, None] * 25, (count, 28, 28))
        write(folder, f"{part}-images-idx3-ubyte", images, zipped=part == "train")
        write(folder, f"{part}-labels-idx1-ubyte", labels)
    return folder


def test_the_files_are_read_as_partitions_and_a_test_set(directory):
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


def test_the_directory_may_be_the_parent_or_come_from_the_environment(directory, monkeypatch):
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


def test_a_task_keeps_the_directory_it_was_built_with(directory, monkeypatch):
    monkeypatch.setenv("HQDE_FL_DATA", str(directory))
    task = load_task({"name": "fashion-mnist"}, {"name": "iid"}, 2, 0)
    monkeypatch.delenv("HQDE_FL_DATA")
    assert len(task.partition(0, 2)) == 20


@pytest.mark.parametrize(
    ("model", "size", "augment"),
    [
        ("cnn", 206922, False),
        ("mlp", 101770, False),
        ("wide-cnn", 80202, False),
        ("wide-cnn", 80202, True),
        ("deep-mlp", 242762, False),
    ],
)
def test_all_models_learn(directory, model, size, augment):
    table = {
        "name": "fashion-mnist",
        "data-dir": str(directory),
        "model": model,
        "augment": augment,
    }
    task = load_task(table, {"name": "iid"}, 1, 0)
    torch.manual_seed(0)
    network = task.model()
    assert sum(p.numel() for p in network.parameters()) == size
    before = evaluate([network], task.test(), task)["loss"]
    training = Training(epochs=3, batch_size=8, lr=0.01)
    train(network, task.partition(0, 1), task, training, torch.Generator().manual_seed(0))
    assert evaluate([network], task.test(), task)["loss"] < before


def test_values_are_standardised_alike_in_training_and_test(directory):
    raw = FashionMnist(str(directory)).build(Iid(), 0)
    scaled = FashionMnist(str(directory), mean=0.25, std=0.5).build(Iid(), 0)
    for plain, standardised in (
        (raw.partition(1, 4), scaled.partition(1, 4)),
        (raw.test(), scaled.test()),
    ):
        torch.testing.assert_close(standardised.tensors[0], (plain.tensors[0] - 0.25) / 0.5)
        assert torch.equal(standardised.tensors[1], plain.tensors[1])


def test_a_fraction_of_the_examples_is_trained_on(directory):
    whole = FashionMnist(str(directory)).build(Iid(), 0).partition(1, 2)
    part = FashionMnist(str(directory), share=0.8).build(Iid(), 0).partition(1, 2)
    assert len(part) == 16
    kept, all_labels = part.tensors[1].tolist(), whole.tensors[1].tolist()
    assert all(kept.count(label) <= all_labels.count(label) for label in range(10))


def test_augmentation_shifts_and_mirrors_training_images_only():
    task = FashionMnist(model="wide-cnn", mean=0.5, std=0.25, augment=True)
    model, plain = task.network(), FashionMnist(model="wide-cnn").network()
    plain.load_state_dict(model.state_dict())
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 3, 6] = 1.0
    many = image.expand(500, -1, -1, -1)
    assert torch.equal(model.eval()(image), plain(image))
    torch.manual_seed(0)
    augmented = shift_and_mirror(many, fill=-2.0)
    assert augmented.shape == many.shape
    rows, columns = (augmented[:, 0] == 1.0).nonzero()[:, 1:].unbind(1)
    assert set(rows.tolist()) == set(range(0, 8))
    assert set(columns.tolist()) == set(range(2, 11)) | set(range(17, 26))
    assert set(augmented.unique().tolist()) == {-2.0, 0.0, 1.0}
    assert not torch.equal(model.train()(many)[0], plain(many)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": True, "model": "mlp"}, "augment needs a CNN, found model 'mlp'"),
        ({"std": 0.0}, "std > 0, found mean=0.0, std=0.0"),
        ({"share": 0.0}, r"share must be in \(0, 1\], found 0.0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FashionMnist(**options)


def test_the_error_of_missing_data_names_their_source(directory, monkeypatch, tmp_path):
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
def test_files_of_a_wrong_shape_are_named(directory, name, array, message):
    write(directory, name, array)
    with pytest.raises(DataError, match=f"{name}.gz must .*{message}"):
        FashionMnist(str(directory)).build(Iid(), 0).partition(0, 2)


def test_an_unknown_model_is_refused():
    with pytest.raises(ConfigError, match=r"must be one of cnn, .*, found 'gpt'"):
        FashionMnist(model="gpt")
    with pytest.raises(ConfigError, match=r"fashion-mnist\.model"):
        load_task({"name": "fashion-mnist", "model": "gpt"}, {"name": "iid"}, 2, 0)
