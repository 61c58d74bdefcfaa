"""Every rule on Ray, and what happens to updates and tasks that go wrong."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from torch import Tensor

from hqde_fl.distributed import auto_executor as auto
from hqde_fl.distributed.auto_executor import AutoExecutor
from hqde_fl.distributed.mapreduce import MapReduce
from hqde_fl.distributed.stored_updates import StoredUpdates, UpdateCollector
from hqde_fl.distributed.tree import run_tree
from hqde_fl.errors import BoundError, ConfigError, UpdateError
from hqde_fl.rules import (
    CenteredClipping,
    Cohort,
    Krum,
    Mean,
    Median,
    SerialExecutor,
    Tree,
    TrimmedMean,
    aggregate,
)
from hqde_fl.updates import MappedColumns, StackedColumns, Updates
from hqde_fl.updates.received_updates import received_columns
from tests.contracts.rule_examples import ALL, context_of

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("one_ray")]

SMALL = MapReduce(shard_bytes=1, tile_bytes=1)
SERIAL = SerialExecutor(tile_bytes=1)


def draw(n: int = 12, d: int = 5000, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    honest = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (honest + torch.linspace(-1, 1, d, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("name", ALL)
def test_every_rule_gives_the_bits_of_the_serial_executor(name: str) -> None:
    rule, updates = ALL[name].make(2), Updates(draw())
    cohort = Cohort(tuple(range(3, 15)), context=context_of(rule, draw()))
    here = aggregate(rule, updates, cohort, executor=SERIAL)
    there = aggregate(rule, updates, cohort, executor=SMALL)
    assert torch.equal(there.delta, here.delta)
    torch.testing.assert_close(there.influence, here.influence, rtol=1e-12, atol=1e-12)
    assert torch.equal(there.filtered, here.filtered)
    assert there.diagnostics.keys() == here.diagnostics.keys()
    second = Updates(draw(seed=1))  # with what the rule remembers, as rows below the updates
    here = aggregate(rule, second, cohort, here.state, executor=SERIAL)
    there = aggregate(rule, second, cohort, there.state, executor=SMALL)
    torch.testing.assert_close(there.delta, here.delta, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    updates = Updates(draw(dtype=dtype))
    here, there = (aggregate(TrimmedMean(2), updates, executor=e) for e in (SERIAL, SMALL))
    assert there.delta.dtype == here.delta.dtype
    assert torch.equal(there.delta, here.delta)


@pytest.mark.zoo
def test_the_bits_do_not_depend_on_how_many_tasks_run_at_one_time() -> None:
    updates = Updates(draw(d=15_000))
    results = [
        aggregate(Krum(2), updates, executor=MapReduce(shard_bytes=1, tile_bytes=1, at_once=k))
        for k in (1, 5)
    ]
    first, second = (result.geometry for result in results)
    assert first is not None
    assert second is not None
    assert torch.equal(first.gram, second.gram)
    assert torch.equal(results[0].delta, results[1].delta)


def test_updates_are_collected_one_by_one_or_by_reference() -> None:
    rows = draw(d=5000)
    collector = UpdateCollector(12, 5000, shard_bytes=1, tile_bytes=1)
    for client, row in enumerate(rows):
        collector.add(client, [row, row.numpy(), ray.put(row), ray.put(row.numpy())][client % 4])
    stored = collector.columns()
    assert isinstance(stored, StoredUpdates)
    assert torch.equal(stored.tile(0, 5000), rows)
    assert torch.equal(stored.select([3, 1]).tile(2040, 2060), rows[[3, 1], 2040:2060])
    assert torch.equal(received_columns(list(stored.rows)).tile(7, 9), rows[:, 7:9])
    mixed = received_columns([stored.rows[0], rows[1]])
    assert torch.equal(mixed.tile(0, 5000), rows[:2])
    delta = aggregate(Median(), stored, executor=SMALL).delta
    assert torch.equal(delta, aggregate(Median(), Updates(rows), executor=SERIAL).delta)


@pytest.mark.parametrize(
    ("update", "found"),
    [
        (torch.zeros(99), r"found \(99,\) float32"),
        (torch.zeros(1, 100), r"found \(1, 100\) float32"),
        (torch.zeros(100, dtype=torch.int64), r"found \(100,\) int64"),
        (torch.zeros(100, dtype=torch.float64), r"found \(100,\) float64"),
        (np.array(["a"] * 100), "found dtype"),
        ("a model", "found str"),
    ],
)
@pytest.mark.parametrize("by_reference", [False, True])
def test_a_wrong_update_is_an_error_of_its_client(
    update: object, found: str, by_reference: bool
) -> None:
    def collect() -> None:
        collector = UpdateCollector(3, 100)
        collector.add(4, torch.zeros(100))
        collector.add(7, ray.put(update) if by_reference else update)
        collector.columns()

    with pytest.raises(UpdateError, match=f"client 7: expected .100,. float32, {found}") as error:
        collect()
    assert error.value.client == 7


def test_an_update_whose_task_fails_names_its_client() -> None:
    @ray.remote(num_cpus=0)
    def fails() -> Tensor:
        raise ArithmeticError("no update")

    collector = UpdateCollector(1, 100)
    collector.add(9, fails.remote())
    with pytest.raises(UpdateError, match=r"client 9: its task raised .*no update"):
        collector.columns()


def die_once(tile: Tensor, folder: Path) -> Tensor:
    """Return a tile's sums; the first process that is asked for its second tile dies."""
    with (folder / f"{os.getpid()}").open("a") as file:
        file.write("x")
    if (folder / f"{os.getpid()}").stat().st_size > 1:
        try:
            (folder / "dead").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os._exit(1)
    return tile.sum(dim=1, dtype=torch.float64)


def test_a_task_that_dies_is_run_again(tmp_path: Path) -> None:
    updates = Updates(draw())
    total = SMALL.reduce(partial(die_once, folder=tmp_path), SMALL.stored(updates, range(12)))
    assert (tmp_path / "dead").exists()
    assert torch.equal(
        total, SERIAL.reduce(partial(torch.sum, dim=1, dtype=torch.float64), updates)
    )


def test_an_error_of_the_rule_is_raised_as_it_is() -> None:
    def broken(tile: Tensor) -> Tensor:
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError, match="no"):
        SMALL.reduce(broken, SMALL.stored(Updates(draw()), range(12)))
    with pytest.raises(BoundError, match="needs at least 5 updates, found 3"):
        aggregate(Tree(TrimmedMean(2), fanout=3), Updates(draw(n=9)), executor=SMALL)


def scale(tile: Tensor) -> Tensor:
    return tile * torch.arange(1, 13)[:, None]


@pytest.mark.parametrize("rule", [Krum(2), CenteredClipping(), Tree(Median(), Median(), fanout=3)])
def test_columns_that_are_computed_are_computed_in_the_tasks(rule: Krum | Tree) -> None:
    source = Updates(draw())
    scaled, below = MappedColumns(source, scale, 12), (draw(n=1)[0],)
    for columns in (scaled, StackedColumns(source, below), StackedColumns(scaled, below)):
        here = aggregate(rule, columns, executor=SERIAL)
        there = aggregate(rule, columns, executor=SMALL)
        assert torch.equal(there.delta, here.delta)


def test_other_columns_are_read_in_this_process() -> None:
    updates = Updates(draw())
    assert torch.equal(
        SMALL.reduce(lambda tile: tile.sum(dim=1), updates),
        SERIAL.reduce(lambda tile: tile.sum(dim=1), updates),
    )
    assert torch.equal(SMALL.combine(lambda tile: (tile[0], None), updates)[0], updates.rows[0])


@pytest.mark.parametrize(
    "tree",
    [
        Tree(fanout=3),
        Tree(Mean(weighted=True), Mean(weighted=True), fanout=4),
        Tree(CenteredClipping(), Median(), fanout=3),
        Tree(Mean(), Krum(1), fanout=2, inner="pass-through"),
    ],
    ids=str,
)
def test_a_tree_of_tasks_is_the_tree_of_one_process(tree: Tree) -> None:
    rows = draw(n=13)
    cohort = Cohort(tuple(range(13)), num_examples=tuple(range(1, 14)), round=3)
    state_here = state_there = None
    for turn in range(2):
        updates = Updates(rows + turn)
        here = aggregate(tree, updates, cohort, state_here, executor=SERIAL)
        there = aggregate(tree, updates, cohort, state_there, executor=SMALL)
        assert torch.equal(there.delta, here.delta)
        assert torch.equal(there.influence, here.influence)
        assert there.diagnostics == here.diagnostics
        state_here, state_there = here.state, there.state


def test_the_root_reads_its_children_only() -> None:
    n, d, fanout = 64, 3000, 4
    stored = SMALL.stored(Updates(draw(n=n, d=d)), range(n))
    assert isinstance(stored, StoredUpdates)
    tree = Tree(Median(), Median(), fanout)
    outcome, reports = run_tree(tree, stored, Cohort.of(n), {}, tile_bytes=1)
    by_level = [[r.bytes for r in reports if r.level == level] for level in range(3)]
    assert [len(level) for level in by_level] == [16, 4, 1]
    assert all(size == fanout * d * 4 for level in by_level for size in level)
    assert outcome.diagnostics["tree-levels"] == 3
    assert outcome.diagnostics["tree-breakdown"] == 7


@pytest.mark.parametrize("piece", [1 << 27, 4 * 1999])
def test_updates_that_are_stored_whole_are_cut_again_where_shards_are_read(piece: int) -> None:
    rows = draw()
    collector = UpdateCollector(12, 5000, shard_bytes=piece, whole=True)
    for client, row in enumerate(rows):
        collector.add(client, row if client % 2 else ray.put(row))
    stored = collector.columns()
    assert len(stored.rows[0].parts) == -(-4 * 5000 // piece)
    assert torch.equal(stored.tile(0, 5000), rows)
    for columns in (stored, MappedColumns(stored, scale, 12)):
        source = Updates(rows) if columns is stored else MappedColumns(Updates(rows), scale, 12)
        for rule in (Tree(Median(), Median(), fanout=3), Krum(2), Median()):
            here = aggregate(rule, source, executor=SERIAL)
            there = aggregate(rule, columns, executor=SMALL)
            assert torch.equal(there.delta, here.delta)


def test_auto_stores_what_does_not_fit_and_reads_it_there() -> None:
    rows = draw()
    assert AutoExecutor(memory=1.0).storage(12, 5000, torch.float32) is None
    store = AutoExecutor(memory=0.0).storage(12, 5000, torch.float32)
    assert store is not None
    columns = received_columns([store(client, row) for client, row in enumerate(rows)])
    assert isinstance(columns, StoredUpdates)
    for rule in (Krum(2), Tree(Median(), Median())):
        there = aggregate(rule, columns, executor=AutoExecutor())
        assert torch.equal(there.delta, aggregate(rule, Updates(rows)).delta)
    assert auto._has_ray()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fanout": 1}, "fanout >= 2, found 1"), ({"at_once": -1}, "at_once >= 0, found -1")],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MapReduce(**options)
