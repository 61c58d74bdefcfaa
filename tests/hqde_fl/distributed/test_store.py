"""The weight store, while its actors are killed."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pytest
import ray
import torch
from ray.exceptions import RayActorError
from torch import Tensor

from hqde_fl.distributed.store import (
    DistributedWeightStore,
    NoSuchVersionError,
    VersionConflictError,
)
from hqde_fl.distributed.weight_coordinator import (
    NAMESPACE,
    Coordinator,
    coordinator_name,
    replica_name,
)
from hqde_fl.distributed.weight_files import read_checkpoint
from hqde_fl.distributed.weight_versions import StoreSettings, SupersededError
from hqde_fl.errors import CheckpointError, ConfigError, RunError

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("one_ray")]


def weights(number: float) -> dict[str, Tensor]:
    return {"weight": torch.full((50,), float(number))}


def kill(store: DistributedWeightStore, *which: int) -> None:
    """Kill replicas by number, the coordinator by -1."""
    for number in which:
        name = coordinator_name(store.name) if number < 0 else replica_name(store.name, number)
        kill_actor(name)


def kill_actor(name: str) -> None:
    """Kill an actor, and wait until it is dead: before that it may still answer."""
    actor = ray.get_actor(name, namespace=NAMESPACE)
    ray.kill(actor)
    with suppress(RayActorError):
        while True:
            ray.get(actor.__ray_ready__.remote())


def number_of(store: DistributedWeightStore, key: str, version: int | None = None) -> float:
    return float(store.get(key, version).weights["weight"][0])


@pytest.fixture(scope="module")
def store(one_ray: None) -> Iterator[DistributedWeightStore]:
    store = DistributedWeightStore("shared")
    yield store
    store.close()


@pytest.fixture
def key() -> str:
    """A name that no test has used, not even this one if it has failed and runs again."""
    return uuid4().hex


def test_versions_of_a_key(store: DistributedWeightStore, key: str) -> None:
    assert [store.put(key, weights(k), facts={"round": k}) for k in range(3)] == [1, 2, 3]
    assert store.put(f"{key} b", weights(7)) == 1
    assert store.versions(key) == [1, 2, 3]
    assert {key, f"{key} b"} <= set(store.keys())
    assert number_of(store, key, 2) == 1
    latest = store.latest(key)
    assert (latest.version, latest.facts) == (3, {"round": 2})
    with pytest.raises(NoSuchVersionError, match=rf"'{key}' have no version 4, found \[1, 2, 3\]"):
        store.get(key, 4)
    with pytest.raises(NoSuchVersionError, match=r"'nothing' have no version, found \[\]"):
        store.latest("nothing")


def test_every_dtype_comes_back_as_it_was(store: DistributedWeightStore) -> None:
    state = {
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(5),
        "complex": torch.randn(2, 2, dtype=torch.complex128),
        "empty": torch.empty(0, 4),
        "bits": torch.tensor([True, False]),
    }
    store.put("dtypes", state)
    stored = store.latest("dtypes").weights
    assert stored.keys() == state.keys()
    for name, value in state.items():
        assert stored[name].dtype == value.dtype
        assert torch.equal(stored[name], value)


@pytest.mark.parametrize(
    ("entries", "facts", "message"),
    [
        ({"w": 3}, None, "weights 'odd' must be tensors by name, found 3 for 'w'"),
        ({}, {"when": None}, "facts of weights 'odd' must be .* found None for 'when'"),
    ],
)
def test_what_is_no_tensor_is_refused(
    store: DistributedWeightStore, entries: Any, facts: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        store.put("odd", entries, facts=facts)


def test_compare_and_set(store: DistributedWeightStore, key: str) -> None:
    assert store.compare_and_set(key, weights(1), expected=0) == 1
    with pytest.raises(VersionConflictError, match=f"'{key}': expected version 0, found 1"):
        store.compare_and_set(key, weights(2), expected=0)
    assert store.compare_and_set(key, weights(2), expected=1) == 2
    assert store.versions(key) == [1, 2]


def test_one_of_many_writers_wins_each_version(store: DistributedWeightStore, key: str) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        own, written = DistributedWeightStore.open("shared"), 0
        while written < 5:
            latest = (own.versions(key) or [0])[-1]
            try:
                version = own.compare_and_set(key, weights(number), expected=latest)
            except VersionConflictError:
                continue
            won.append(version)
            written += 1

    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(won) == list(range(1, 16))
    assert store.versions(key) == list(range(1, 16))


@pytest.mark.slow
def test_another_process_reads_the_latest_and_outlives_its_writer(
    store: DistributedWeightStore, key: str
) -> None:
    @ray.remote(num_cpus=0)
    def write_and_die(key: str) -> int:
        return DistributedWeightStore.open("shared").put(key, {"w": torch.ones(200_000)})

    @ray.remote(num_cpus=0)
    def read(key: str) -> tuple[int, float]:
        latest = DistributedWeightStore.open("shared").latest(key)
        return latest.version, float(latest.weights["w"].sum())

    writer_class: Any = ray.remote(num_cpus=0)(_Writer)
    writer = writer_class.remote()
    assert ray.get(writer.put.remote(key)) == 1
    ray.kill(writer)
    assert ray.get(write_and_die.remote(key)) == 2
    assert ray.get(read.remote(key)) == (2, 200_000)
    assert float(store.get(key, 1).weights["w"].sum()) == 400_000


class _Writer:
    def put(self, key: str) -> int:
        return DistributedWeightStore.open("shared").put(key, {"w": torch.full((200_000,), 2)})


def test_one_replica_that_is_left_fills_the_others(store: DistributedWeightStore, key: str) -> None:
    store.put(key, weights(1))
    store.put(key, weights(2))
    for _ in range(3):
        store.get(key, 1)
    kill(store, 1)
    store.repair()
    kill(store, 0, 2)
    assert number_of(store, key) == 2
    store.repair()
    first, second = (access for access in store.statistics() if access.key == key)
    assert (first.version, first.reads, second.reads) == (1, 3, 1)
    assert first.last_read is not None
    assert second.last_read is not None
    assert first.bytes > 200


@pytest.mark.slow
def test_kills_lose_nothing_and_no_read_is_stale(store: DistributedWeightStore, key: str) -> None:
    rng, written = random.Random(3), {key: 0, f"{key} y": 0}
    for turn in range(45):
        if turn % 15 == 5:  # several at once, but never all replicas
            kill(store, *rng.sample([-1, rng.choice([0, 1]), 2], rng.choice([1, 2])))
        key = rng.choice(list(written))
        if rng.random() < 0.5:
            written[key] += 1
            assert store.put(key, weights(written[key])) == written[key]
        elif written[key]:
            latest = store.latest(key)
            assert latest.version == written[key] == float(latest.weights["weight"][0])
    for key, last in written.items():
        assert store.versions(key) == list(range(1, last + 1))
        assert number_of(store, key, 1) == 1


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"max_age": 0.0}, {"a": [4], "b": [1]}),
        ({"max_bytes": 250}, {"a": [3, 4], "b": [1]}),
        ({"max_bytes": 10}, {"a": [4], "b": [1]}),
        ({"max_versions": 3}, {"a": [2, 3, 4], "b": [1]}),
    ],
    ids=str,
)
def test_old_versions_are_evicted(
    one_ray: None, key: str, settings: dict[str, Any], kept: dict[str, list[int]]
) -> None:
    with coordinator(key, StoreSettings(replicas=1, **settings)) as store:
        for number, name in enumerate("abaaa"):
            store.write(name, f"token-{number}", content(80), None)
        assert store.keys() == kept
        assert store.look_up("a", 1) == (None, [])
        found, (reference,) = store.look_up("a", 4)
        assert found is not None
        assert found.bytes == len(ray.get(reference)) == 80


def test_a_write_that_is_tried_again_makes_one_version(
    one_ray: None, key: str, tmp_path: Path
) -> None:
    settings = StoreSettings(replicas=1, directory=str(tmp_path), checkpoint_every=2)
    with coordinator(key, settings) as store:
        assert store.write("a", "first", content(10), None) == (True, 1)
        assert store.write("a", "first", content(10), None) == (True, 1)
        assert read_checkpoint(tmp_path) == []
        assert store.write("a", "second", content(20), 1) == (True, 2)
        assert [version.bytes for version, _ in read_checkpoint(tmp_path)] == [10, 20]
        other = Coordinator(key, settings, new=False)
        assert other.write("a", "second", content(20), 1) == (True, 2)
        assert other.write("a", "third", content(30), 2) == (True, 3)
        with pytest.raises(SupersededError, match="epoch 1 has ended: it is 2"):
            store.write("a", "fourth", content(40), 2)
        assert store.write("a", "fourth", content(40), 3) == (True, 4)  # it takes over again


def content(size: int) -> npt.NDArray[np.uint8]:
    return np.arange(size, dtype=np.uint8)


@contextmanager
def coordinator(name: str, settings: StoreSettings) -> Iterator[Coordinator]:
    """A coordinator in this process, which ends its replicas."""
    try:
        yield Coordinator(name, settings, new=True)
    finally:
        for number in range(settings.replicas):
            kill_actor(replica_name(name, number))


@pytest.mark.slow
def test_all_gone_and_restored_from_disk(one_ray: None, key: str, tmp_path: Path) -> None:
    store = DistributedWeightStore(key, replicas=1, directory=str(tmp_path))
    store.put("a", weights(1))
    store.put("a", weights(2), facts={"round": 2})
    kill(store, 0, -1)
    latest = store.latest("a")
    assert (latest.version, latest.facts) == (2, {"round": 2})
    assert store.put("a", weights(3)) == 3
    kill(store, 0)
    assert store.versions("a") == [1, 2, 3]
    store.close()
    with pytest.raises(RunError, match="is closed"):
        store.latest("a")
    with coordinator(
        f"{key} later", store.settings
    ) as later:  # another store on the same directory
        assert later.keys() == {"a": [1, 2, 3]}
    next(tmp_path.glob("00000002-*")).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(tmp_path)


@pytest.mark.slow
def test_all_gone_without_a_checkpoint_is_an_error(one_ray: None, key: str) -> None:
    store = DistributedWeightStore(key, replicas=1)
    store.put("a", weights(1))
    with pytest.raises(ConfigError, match="no directory"):
        store.checkpoint()
    kill(store, 0)
    with pytest.raises(RunError, match=f"'{key}' is lost: all its replicas died"):
        store.latest("a")
    kill(store, -1)
    with pytest.raises(RunError, match=f"'{key}' is lost"):
        store.put("a", weights(2))
    store.close()


def test_a_store_that_does_not_exist_is_an_error(one_ray: None) -> None:
    with pytest.raises(RunError, match="no weight store 'nobody'"):
        DistributedWeightStore.open("nobody")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replicas": 0}, "replicas >= 1, found 0"),
        ({"max_age": -1}, "max_age >= 0, found -1"),
        ({"max_bytes": float("nan")}, "max_bytes >= 0, found nan"),
        ({"checkpoint_every": -1}, "checkpoint_every >= 0, found -1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DistributedWeightStore("impossible", **settings)
