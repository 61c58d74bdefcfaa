import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    PathologicalPartitioner,
    ShardPartitioner,
)

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.partition import (
    PARTITIONERS,
    Dirichlet,
    Iid,
    Partitioner,
    Pathological,
    Shard,
)

LABELS = np.random.default_rng(0).permutation(np.arange(600) % 10)
ALL = [Iid(), Dirichlet(0.5), Dirichlet(0.01), Pathological(6), Shard(2)]
SEEDED = {
    Dirichlet(0.5, seed=7): DirichletPartitioner(10, "label", 0.5, seed=7),
    Pathological(3, seed=7): PathologicalPartitioner(
        10, "label", 3, class_assignment_mode="first-deterministic", seed=7
    ),
    Shard(2, seed=7): ShardPartitioner(10, "label", 2, seed=7),
}


@pytest.mark.parametrize("partitioner", ALL, ids=str)
@pytest.mark.parametrize("count", [1, 10, 40])
def test_partitions_are_disjoint_reproducible_and_not_empty(partitioner, count):
    parts = partitioner.split(LABELS, count, seed=3)
    assert len(parts) == count
    assert all(len(part) > 0 and part.dtype == np.int64 for part in parts)
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    assert together.min() >= 0
    assert together.max() < len(LABELS)
    again = partitioner.split(LABELS, count, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("partitioner", ALL, ids=str)
def test_another_seed_divides_differently(partitioner):
    one, two = (partitioner.split(LABELS, 10, seed) for seed in (0, 1))
    assert not all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("partitioner", [Iid(), Dirichlet(0.5), Pathological(3)], ids=str)
def test_every_example_is_in_a_partition(partitioner):
    assert sum(map(len, partitioner.split(LABELS, 10, 0))) == len(LABELS)


def test_iid_partitions_are_alike_even_if_the_data_are_sorted():
    parts = Iid().split(np.sort(LABELS), 10, 0)
    assert {len(part) for part in parts} == {60}
    assert all(len(set(np.sort(LABELS)[part])) >= 8 for part in parts)


@pytest.mark.parametrize("count", [1, 7, 40])
def test_iid_gives_the_division_of_flwr_datasets(count):
    order = Seeds(5).numpy("partition", "order").permutation(len(LABELS))
    theirs = IidPartitioner(count)
    theirs.dataset = Dataset.from_dict({"index": order})
    for number, part in enumerate(Iid().split(LABELS, count, 5)):
        assert part.tolist() == sorted(theirs.load_partition(number)["index"])


@pytest.mark.parametrize("ours", SEEDED, ids=str)
def test_a_partitioners_own_seed_gives_the_division_of_flwr_datasets(ours):
    theirs = SEEDED[ours]
    theirs.dataset = Dataset.from_dict({"label": LABELS, "index": np.arange(len(LABELS))})
    for seed in (0, 1):
        for number, part in enumerate(ours.split(LABELS, 10, seed)):
            assert part.tolist() == sorted(theirs.load_partition(number)["index"])


def test_small_alpha_is_more_heterogeneous():
    def classes(alpha):
        parts = Dirichlet(alpha).split(LABELS, 10, 0)
        return np.mean([len(set(LABELS[part])) for part in parts])

    assert classes(0.05) < classes(0.5) < classes(100.0) == 10


def test_dirichlet_leaves_no_client_without_examples():
    sizes = [len(part) for part in Dirichlet(0.001).split(LABELS, 300, 0)]
    assert min(sizes) == 1
    assert sum(sizes) == len(LABELS)


def test_pathological_clients_have_the_requested_number_of_classes():
    parts = Pathological(3).split(LABELS, 20, 0)
    assert {len(set(LABELS[part])) for part in parts} == {3}


def test_shards_have_equal_sizes_and_few_classes():
    parts = Shard(2).split(LABELS, 10, 0)
    assert {len(part) for part in parts} == {60}
    assert max(len(set(LABELS[part])) for part in parts) <= 4


def test_the_global_generators_are_not_changed():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for partitioner in ALL:
        partitioner.split(LABELS, 10, 0)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.get_rng_state().tolist() == states[2]


def test_nothing_is_printed_or_warned(capfd, recwarn):
    for partitioner in ALL:
        partitioner.split(LABELS, 3, 0)
    assert "".join(capfd.readouterr()) == ""
    assert not recwarn.list


@pytest.mark.parametrize(
    ("partitioner", "count", "message"),
    [
        (Iid(), 0, r"partitions must be in \[1, 600\].* found 0"),
        (Iid(), 601, "found 601"),
        (Pathological(11), 5, r"classes_per_client=11\) cannot make 5 partitions"),
        (Pathological(10), 500, "cannot make 500 partitions"),
        (Shard(7), 100, r"needs 700 examples .* found 600"),
    ],
)
def test_impossible_divisions_are_refused(partitioner, count, message):
    with pytest.raises(ConfigError, match=message):
        partitioner.split(LABELS, count, 0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "dirichlet", "alpha": 0}, "Dirichlet.alpha must be finite and > 0, found 0.0"),
        ({"name": "pathological", "classes-per-client": 0}, "must be >= 1, found 0"),
        ({"name": "shard", "shards-per-client": 0}, "must be >= 1, found 0"),
        ({"name": "dirichlet", "bins": 1}, "Dirichlet.bins must be >= 2, found 1"),
        ({"name": "dirichlet", "seed": -1}, "Dirichlet.seed must be >= 0, found -1"),
        ({"name": "dirichlet", "alhpa": 1.0}, "did you mean 'alpha'"),
        ({"name": "idd"}, "did you mean 'iid'"),
    ],
)
def test_impossible_partitioners_are_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        PARTITIONERS.build(table)


REGRESSION = np.random.default_rng(1).normal(size=600).astype(np.float32)


@pytest.mark.parametrize("partitioner", [Dirichlet(), Pathological(), Shard()], ids=str)
@pytest.mark.parametrize(
    "labels",
    [
        REGRESSION,
        REGRESSION[:, None],
        REGRESSION[:12],
        (1000 * REGRESSION).astype(int),
        np.array([f"patient {number}" for number in range(600)]),
    ],
    ids=["float", "column", "few", "int", "names"],
)
def test_labels_that_are_no_classes_are_refused(partitioner, labels):
    with pytest.raises(ConfigError, match=r"^\w+\(.*\d+ different labels in \d+ .*bins = 10"):
        partitioner.split(labels, 5, 0)


@pytest.mark.parametrize("partitioner", [Dirichlet(), Pathological(), Shard()], ids=str)
def test_examples_with_several_labels_are_refused(partitioner):
    with pytest.raises(ConfigError, match=r"one label .* found labels of shape \(600, 3\)"):
        partitioner.split(np.ones((600, 3)), 5, 0)


@pytest.mark.parametrize("kind", [Dirichlet, Pathological, Shard])
def test_with_bins_the_quantiles_of_the_labels_are_classes(kind):
    quantile = (REGRESSION.argsort().argsort() * 10) // 600
    expected = kind().split(quantile, 5, 0)
    for labels in (REGRESSION, REGRESSION[:, None], REGRESSION.astype(np.float64)):
        parts = kind(bins=10).split(labels, 5, 0)
        assert all(np.array_equal(a, b) for a, b in zip(parts, expected, strict=True))


def test_bins_need_finite_numbers():
    for labels in (np.array([np.nan, 1.0, 2.0]), np.array(["a", "b", "c"]), np.array([1j, 2, 3])):
        with pytest.raises(ConfigError, match="finite numbers"):
            Dirichlet(bins=2).split(labels, 2, 0)


@pytest.mark.parametrize(
    "labels",
    [LABELS.astype(float), LABELS / 2, LABELS > 4, np.array(list("abcdefghij"))[LABELS]],
    ids=["whole floats", "ratings", "bool", "names"],
)
def test_few_different_labels_of_any_type_are_classes(labels):
    assert sum(map(len, Dirichlet().split(labels, 5, 0))) == len(labels)


def test_classes_of_no_client_are_counted(caplog):
    caplog.set_level("WARNING", "flwr")
    kept = sum(map(len, Pathological(2).split(LABELS, 4, 0)))
    assert 300 < kept < 600
    assert f"gives {600 - kept} of 600 examples to no client" in caplog.text
    with pytest.raises(ConfigError, match=r"gives 480 of 600 .* 8 of 10 classes have none among 1"):
        Pathological(2).split(LABELS, 1, 0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[0, 1, 2]], "must return 2 parts, found 1"),
        ([[0, 1], [2, 8]], r"must return indices in \[0, 7\], found int64 from 2 to 8"),
        ([[0, -1], [2]], "found int64 from -1 to 0"),
        ([[0.0, 1.0], [2.0]], "found float64 from 0.0 to 1.0"),
        ([[True, False], [True, True]], "found bool from False to True"),
    ],
)
def test_a_division_of_the_users_own_is_checked(parts, message):
    class Own(Partitioner):
        def divide(self, labels, partitions, seeds):
            return parts

    with pytest.raises(ConfigError, match=message):
        Own().split(np.arange(8), 2, seed=0)


def test_an_empty_part_of_the_users_own_gets_an_example():
    class Own(Partitioner):
        def divide(self, labels, partitions, seeds):
            return [[], [3, 1]]

    assert [part.tolist() for part in Own().split(np.arange(8), 2, seed=0)] == [[1], [3]]
