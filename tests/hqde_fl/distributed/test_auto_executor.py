"""The choice between this process and Ray, without a Ray."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hqde_fl.distributed import auto_executor as auto
from hqde_fl.distributed.auto_executor import AutoExecutor
from hqde_fl.distributed.mapreduce import MapReduce
from hqde_fl.distributed.shards import ShardColumns, shard_edges
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.rules import Krum, SerialExecutor, aggregate
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from hqde_fl.updates import Updates, spans
from hqde_fl.updates.update_file import UpdateFile


def test_updates_in_this_process_are_aggregated_here() -> None:
    updates = Updates(torch.randn(9, 100, generator=torch.Generator().manual_seed(1)))
    here = aggregate(Krum(2), updates, executor=AutoExecutor())
    assert torch.equal(here.delta, aggregate(Krum(2), updates, executor=SerialExecutor()).delta)


def test_without_a_ray_updates_go_to_a_file_beyond_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(auto, "_has_ray", lambda: False)
    monkeypatch.setattr(auto, "free_memory", lambda: 100_000.0)
    assert AutoExecutor().storage(10, 1250, torch.float32) is None
    store = AutoExecutor(folder=str(tmp_path)).storage(10, 1251, torch.float32)
    assert str(store) == f"a file in {tmp_path}"
    assert list(tmp_path.iterdir()) == []  # it has no name


def test_without_room_on_the_disk_updates_stay_in_memory_or_the_run_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auto, "_has_ray", lambda: False)
    monkeypatch.setattr(auto, "free_memory", lambda: 100_000.0)
    monkeypatch.setattr(auto.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert AutoExecutor().storage(10, 2000, torch.float32) is None
    with pytest.raises(RunError, match=r"take 0\.0 GB, found .* set AutoExecutor\.folder"):
        AutoExecutor().storage(10, 3000, torch.float32)


def test_with_a_ray_what_may_be_looked_at_goes_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_has_ray", lambda: True)
    store = AutoExecutor(memory=0.0).storage(10, 3000, torch.float32, settled=False)
    assert isinstance(store, UpdateFile)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a folder that exists, found"):
        AutoExecutor(folder=str(tmp_path / "none"))


def test_free_memory_is_bounded_by_the_limit_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(auto, "_GROUP", tmp_path)
    unlimited = auto.free_memory()
    assert unlimited > 1 << 20
    for name, text in {
        "max": "5000",
        "current": "3000",
        "stat": "anon 1\ninactive_file 1000",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert auto.free_memory() == 3000
    (tmp_path / "memory.max").write_text("max")
    assert auto.free_memory() > 1 << 20


def test_an_impossible_part_of_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"memory in \[0, 1\], found 2"):
        AutoExecutor(memory=2)


@pytest.mark.parametrize(("n", "d"), [(1, 5), (16, 3_000_000), (256, 10_000_000), (1000, 999_999)])
def test_shards_hold_whole_tiles_and_what_they_may(n: int, d: int) -> None:
    edges = shard_edges(n, d, 1 << 27)
    assert edges[0] == 0
    assert edges[-1] == d
    assert list(edges) == sorted(set(edges))
    tiles = {start for start, _ in spans(Updates(torch.empty(1, 1).expand(n, d)))}
    assert set(edges[:-1]) <= tiles
    widest = max(b - a for a, b in pairwise(edges))
    assert 4 * n * widest <= 1 << 27


def test_a_tile_may_cross_the_parts_of_a_row() -> None:
    matrix = torch.arange(24.0).view(2, 12)
    parts = [[row[:5].numpy(), row[5:6].numpy(), row[6:].numpy()] for row in matrix]
    columns = ShardColumns.of(parts)
    assert columns.shape == (2, 12)
    for start in range(12):
        for stop in range(start + 1, 13):
            assert torch.equal(columns.tile(start, stop), matrix[:, start:stop])
    assert torch.equal(columns.select([1]).tile(3, 7), matrix[1:, 3:7])


def test_map_reduce_needs_the_engine_that_has_a_ray(tmp_path: Path) -> None:
    experiment = Experiment.parse({"strategy": {"executor": {"name": "map-reduce"}}})
    for engine in ("inline", "flower"):
        with pytest.raises(ConfigError, match=f"needs the engine ray, found {engine}"):
            run_experiment(experiment, tmp_path, engine=engine)


def test_without_a_ray_there_is_no_map_reduce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(RunError, match="MapReduce needs a Ray: run with the engine 'ray'"):
        MapReduce().storage(3, 10, torch.float32)
