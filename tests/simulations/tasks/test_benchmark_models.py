import pytest
import torch
from torch import nn

from hqde_fl.simulations.tasks import (
    Adult,
    Cifar10,
    Cifar100,
    Covertype,
    Femnist,
    Mnist,
    Shakespeare,
)
from hqde_fl.simulations.tasks.models import Augmented
from hqde_fl.simulations.tasks.resnet import ResidualBlock
from hqde_fl.updates.roles import roles_of

IMAGE, COLOURS = torch.zeros(1, 1, 28, 28), torch.zeros(1, 3, 32, 32)


# Numbers of parameters as the papers and the projects named in the docstrings state them, or
# follow from the layers that they state.
@pytest.mark.parametrize(
    ("task", "size", "inputs"),
    [
        (Mnist(model="logistic"), 7_850, IMAGE),
        (Mnist(model="fedavg-cnn"), 1_663_370, IMAGE),
        (Mnist(model="byzfl-cnn"), 520 + 25_050 + 400_500 + 5_010, IMAGE),
        (Mnist(model="byzfl-mlp"), 79_510, IMAGE),
        (Mnist(model="lenet"), 44_426, IMAGE),
        (Mnist(model="fedopt-cnn"), 1_199_882, IMAGE),
        (Femnist(), 6_603_710, IMAGE),
        (Femnist(model="fedopt-cnn"), 1_206_590, IMAGE),
        (Cifar10(model="fedopt-cnn"), 1_626_442, COLOURS),
        (Cifar10(model="lenet"), 62_006, COLOURS),
        (Cifar10(), 269_722, COLOURS),
        (Cifar10(norm="batch"), 269_722, COLOURS),
        (Cifar10(model="resnet-18", norm="batch"), 11_173_962, COLOURS),
        (Cifar100(model="resnet-18"), 11_220_132, COLOURS),
        (Shakespeare(), 819_920, torch.zeros(1, 80, dtype=torch.int64)),
        (Adult(model="logistic"), 212, torch.zeros(1, 105)),
        (Covertype(hidden=10), 54 * 10 + 10 + 77, torch.zeros(1, 54)),
    ],
    ids=str,
)
def test_models_have_the_published_size_and_score_every_class(task, size, inputs):
    model = task.network().eval()
    assert sum(p.numel() for p in model.parameters()) == size
    with torch.no_grad():
        assert model(inputs).shape == (1, task.classes)


def test_a_block_without_weights_in_its_shortcut_subsamples_and_pads():
    block = ResidualBlock(2, 6, 2, "batch", projected=False).eval()
    for part in (block.conv1, block.conv2):
        nn.init.zeros_(part.weight)
    images = torch.rand(3, 2, 4, 4)
    outputs = block(images)
    assert torch.equal(outputs[:, 2:4], images[:, :, ::2, ::2])
    assert outputs[:, :2].abs().sum() + outputs[:, 4:].abs().sum() == 0


@pytest.mark.parametrize("projected", [True, False])
def test_a_block_adds_its_convolutions_to_the_images(projected):
    torch.manual_seed(0)
    block = ResidualBlock(4, 4, 1, "group", projected=projected)
    images = torch.rand(2, 4, 5, 5)
    inner = block.norm2(block.conv2(block.norm1(block.conv1(images)).relu()))
    torch.testing.assert_close(block(images), (inner + images).relu())


def test_batch_norm_has_statistics_and_group_norm_has_none():
    roles = {norm: set(roles_of(Cifar10(norm=norm).network()).roles.values()) for norm in
             ("group", "batch")}  # fmt: skip
    assert roles == {"group": {"trainable"}, "batch": {"trainable", "statistics", "counters"}}


def test_augmentation_keeps_the_names_of_a_residual_network():
    augmented, plain = Cifar10(augment=True).network(), Cifar10().network()
    assert isinstance(augmented, Augmented)
    plain.load_state_dict(augmented.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(augmented.eval()(images), plain.eval()(images))


def test_the_lstm_reads_more_than_the_last_character():
    torch.manual_seed(0)
    model = Shakespeare(hidden=8).network()
    one = torch.zeros(1, 80, dtype=torch.int64)
    for place in (70, 79):
        other = one.clone()
        other[0, place] = 5
        assert not torch.equal(model(one), model(other))
