"""Updates in a file that is mapped into memory."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from hqde_fl.errors import RunError
from hqde_fl.rules import ByzantineFilter, GeometricMedian, Krum, Mean, Median, aggregate
from hqde_fl.updates import update_file
from hqde_fl.updates.received_updates import ReceivedModel, ReceivedUpdates, received_columns
from hqde_fl.updates.update_file import FileColumns, FileDelta, UpdateFile, file_folder

SIZES = (1, 700, 0, 3, 1296)
D = sum(SIZES)
BASE = torch.randn(D, generator=torch.Generator().manual_seed(99))


def received(seed: int) -> ReceivedModel:
    model = BASE + torch.randn(D, generator=torch.Generator().manual_seed(seed))
    return ReceivedModel(tuple(part.numpy() for part in model.split(SIZES)), BASE)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_file, "BLOCK_BYTES", 1)  # blocks of 1024 columns, of D = 2000


@pytest.mark.parametrize(
    "rule", [Mean(), Krum(2), Median(), GeometricMedian(), ByzantineFilter()], ids=str
)
def test_rules_give_the_same_bits(rule, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows: list[Tensor | ReceivedModel] = [received(seed) for seed in range(8)]
    rows[3] = torch.arange(D, dtype=torch.float32)
    store = UpdateFile(8, D, torch.float32, str(tmp_path))
    stored = [store(client, row) for client, row in enumerate(rows)]
    columns = received_columns(stored)
    assert isinstance(columns, FileColumns)
    expected = aggregate(rule, received_columns(rows))
    found = aggregate(rule, columns)
    assert torch.equal(found.delta, expected.delta)
    assert torch.equal(found.influence, expected.influence)


@pytest.mark.parametrize("models", [0, 3, 8])
@pytest.mark.parametrize("span", [(0, D), (1000, 1100), (1024, 2000), (7, 8)])
def test_tiles_are_those_of_updates_in_memory(models: int, span: tuple[int, int]) -> None:
    rows: list[Tensor | ReceivedModel] = [received(seed) for seed in range(models)]
    rows += [torch.randn(D) for _ in range(8 - models)]
    store = UpdateFile(8, D, torch.float32)
    columns = received_columns([store(client, row) for client, row in enumerate(rows)])
    expected = received_columns(rows)
    assert isinstance(columns, FileColumns)
    assert (columns.shape, columns.dtype) == (expected.shape, expected.dtype)
    assert torch.equal(columns.tile(*span), expected.tile(*span))
    assert torch.equal(columns.select([6, 1]).tile(*span), expected.tile(*span)[[6, 1]])


def test_updates_in_and_outside_a_file_go_together() -> None:
    store = UpdateFile(8, D, torch.float32)
    here = received(5)
    mixed = received_columns([store(0, received(1)), here, store(1, torch.ones(D))])
    assert isinstance(mixed, ReceivedUpdates)
    expected = received_columns([received(1), here, torch.ones(D)])
    assert torch.equal(mixed.tile(0, D), expected.tile(0, D))


def test_parts_stay_parts_and_share_no_memory_with_the_reply(tmp_path: Path) -> None:
    row = received(1)
    stored = UpdateFile(1, D, torch.float32, str(tmp_path))(0, row)
    assert isinstance(stored, ReceivedModel)
    assert [len(part) for part in stored.parts] == list(SIZES)
    before = row.delta()
    row.parts[1][:] = 0
    assert torch.equal(stored.delta(), before)
    assert not any(part.flags.writeable for part in stored.parts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_updates_of_other_dtypes_are_kept_bit_by_bit(dtype: torch.dtype) -> None:
    rows = [torch.randn(1500, dtype=torch.float64).to(dtype) for _ in range(3)]
    widened = torch.float64 if dtype == torch.float64 else torch.float32
    store = UpdateFile(3, 1500, dtype)
    for client, stored in enumerate([store(client, row) for client, row in enumerate(rows)]):
        assert isinstance(stored, FileDelta)
        assert stored.delta().dtype == dtype
        assert torch.equal(stored.delta(), rows[client])
        assert torch.equal(stored.columns([stored]).tile(0, 1500)[0], rows[client].to(widened))


def test_what_was_not_expected_stays_where_it_is() -> None:
    store = UpdateFile(1, 10, torch.float32)
    for other in (torch.zeros(9), torch.zeros(10, dtype=torch.float64), received(1)):
        assert store(0, other) is other
    assert store(0, torch.zeros(10)) is not None
    assert store(1, second := torch.zeros(10)) is second  # one more than were expected
    assert store(1, second) is second


def test_a_full_disk_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = UpdateFile(2, D, torch.float32, str(tmp_path))

    def write(_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_file", SimpleNamespace(seek=lambda _: None, write=write))
    with pytest.raises(RunError, match=r"need .* GB in .*: No space left on device; set AutoExec"):
        store(0, received(1))
    with pytest.raises(RunError, match="No such file"):
        UpdateFile(2, D, torch.float32, str(tmp_path / "none"))


def test_a_folder_in_memory_is_avoided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(update_file.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(update_file, "LARGE_FOLDER", "/")
    disks = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(tmp_path.resolve()), fstype="tmpfs"),
    ]
    monkeypatch.setattr(update_file.psutil, "disk_partitions", lambda all: disks)
    assert file_folder() == "/"
    disks[1].fstype = "xfs"
    assert file_folder() == str(tmp_path)
