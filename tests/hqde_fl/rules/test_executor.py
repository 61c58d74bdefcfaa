"""Executors read every tile, and restore the process's thread settings."""

import threading
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules import Median, SerialExecutor, ThreadedExecutor, aggregate
from hqde_fl.rules.executor import default_executor
from hqde_fl.rules.library_threads import one_library_thread
from hqde_fl.updates import MappedColumns, StackedColumns, Updates, spans
from hqde_fl.updates.columns import MIN_TILE_COLUMNS


def test_tiles_cover_every_column_once() -> None:
    updates = Updates(torch.zeros(50, 1234))
    for tile_bytes in (1, 1 << 17, 1 << 30):
        edges = list(spans(updates, tile_bytes))
        assert edges[0][0] == 0
        assert edges[-1][1] == 1234
        assert all(a[1] == b[0] for a, b in pairwise(edges))
    assert next(spans(updates, 1)) == (0, MIN_TILE_COLUMNS)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_reduce_sums_and_combine_joins(threads: int) -> None:
    updates = Updates(torch.arange(8 * 5000, dtype=torch.float64).view(8, 5000))
    executor = ThreadedExecutor(threads, tile_bytes=1)
    total = executor.reduce(lambda tile: tile.sum(dim=1), updates)
    torch.testing.assert_close(total, torch.as_tensor(updates.rows).sum(dim=1))
    first, counts = executor.combine(lambda tile: (tile[3], torch.ones(1, 8)), updates)
    assert torch.equal(first, updates.rows[3])
    assert counts is not None
    assert float(counts[0, 0]) == len(list(spans(updates, 1)))


def test_an_error_in_a_thread_is_raised() -> None:
    def broken(tile: Tensor) -> Tensor:
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError):
        ThreadedExecutor(2, tile_bytes=1).reduce(broken, Updates(torch.zeros(3, 5000)))


def test_library_threads_are_limited_and_restored() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []

    def look(tile: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return tile.sum()

    ThreadedExecutor(2, tile_bytes=1).reduce(look, Updates(torch.zeros(3, 5000)))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2
    with one_library_thread(), one_library_thread():
        assert one_library_thread.unlimited_threads() == 2
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_aggregates_that_overlap_restore_the_settings() -> None:
    before = torch.get_num_threads()
    updates = Updates(torch.randn(5, 20000, generator=torch.Generator().manual_seed(0)))
    expected = aggregate(Median(), updates).delta
    results: list[Tensor] = []
    threads = [
        threading.Thread(target=lambda: results.append(aggregate(Median(), updates).delta))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(torch.equal(result, expected) for result in results)
    assert torch.get_num_threads() == before


def test_few_numbers_start_no_threads() -> None:
    assert default_executor(Updates(torch.zeros(2, 10))) == SerialExecutor()
    assert default_executor(Updates(torch.zeros(1, 1).expand(3, 1 << 20))) == ThreadedExecutor()


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(ConfigError, match="threads >= 0, found -1"):
        ThreadedExecutor(-1)


def test_stacked_and_mapped_columns() -> None:
    matrix = torch.arange(12.0).view(3, 4)
    stacked = StackedColumns(Updates(matrix), (torch.full((4,), 7.0, dtype=torch.float64),))
    assert stacked.shape == (4, 4)
    assert stacked.dtype == torch.float32
    assert stacked.tile(1, 3).tolist() == [[1, 2], [5, 6], [9, 10], [7, 7]]
    assert stacked.select([3, 0]).tile(0, 1).tolist() == [[7], [0]]
    mapped = MappedColumns(stacked, lambda tile: tile[:2] * 2, 2)
    assert mapped.shape == (2, 4)
    assert mapped.tile(0, 2).tolist() == [[0, 2], [8, 10]]
    assert mapped.select([1]).tile(0, 2).tolist() == [[8, 10]]
    assert mapped.device == stacked.device == torch.device("cpu")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        torch.zeros(3),
        torch.zeros(2, 3, 1),
        torch.zeros(2, 0),
        torch.zeros(2, 3, dtype=torch.int64),
        [torch.zeros(3), torch.zeros(4)],
        [torch.zeros(3), torch.zeros(3, dtype=torch.float64)],
    ],
    ids=str,
)
def test_updates_must_be_rows_of_floats(rows: object) -> None:
    with pytest.raises(ValueError, match="Updates needs"):
        Updates(rows)  # type: ignore[arg-type]
