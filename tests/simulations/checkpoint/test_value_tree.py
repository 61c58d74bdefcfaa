"""A checkpoint file returns what was written; any other file is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hqde_fl.errors import CheckpointError
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.value_tree import NUMBERS, Stored, ValueTree


@dataclass(frozen=True, eq=False)
class Inner:
    values: Any
    name: str = "inner"


@dataclass(frozen=True, eq=False)
class Outer:
    inner: Inner
    more: tuple[Any, ...] = field(default=())


TREE = ValueTree(Inner, Outer)


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Inner | Outer):
        return same(vars(one), vars(other))
    if isinstance(one, torch.Tensor):
        return (one.dtype, one.shape) == (other.dtype, other.shape) and bits(one) == bits(other)
    if isinstance(one, np.ndarray | np.generic):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return np.float64(one).tobytes() == np.float64(other).tobytes()
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(a, b) for a, b in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""


def tensors() -> st.SearchStrategy[torch.Tensor]:
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return st.builds(
        lambda dtype, shape, seed: (
            torch.randint(0, 2, (math.prod(shape) * dtype.itemsize,), generator=seed)
            .to(torch.uint8)
            .view(dtype)
            .reshape(shape)
        ),
        st.sampled_from([getattr(torch, name) for name in sorted(NUMBERS)]),
        shapes,
        st.integers(0, 9).map(lambda seed: torch.Generator().manual_seed(seed)),
    )


DTYPES = [">i2", "<u8", "?", "<c16", "<f2", ">f8", "<M8[ns]", "S3", "<U2"]
KEYS = st.one_of(
    st.text(max_size=4), st.integers(), st.tuples(st.integers(0, 9), st.text(max_size=2))
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=9),
    tensors(),
    st.sampled_from(DTYPES).map(np.dtype).flatmap(lambda d: arrays.arrays(d, (2, 1))),
    st.sampled_from([np.float64("nan"), np.int32(-3), np.float32(0.1), np.bool_(True)]),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.builds(Inner, inner, st.text(max_size=3)),
        st.builds(Outer, st.builds(Inner, inner), st.tuples(inner)),
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_everything_comes_back_as_it_was(value: Any) -> None:
    text, stored = TREE.dump(value)
    assert "\n" not in text
    assert same(TREE.load(text, stored), value)


def test_a_file_gives_back_what_was_written_and_safetensors_opens_it(tmp_path: Path) -> None:
    from safetensors import safe_open

    path, value = tmp_path / "file.safetensors", example()
    checksum = container.write(path, TREE, value)
    assert same(container.read(path, TREE), value)
    assert same(container.read(path, TREE, checksum), value)
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        assert torch.equal(file.get_tensor("state/inner/values/flat"), value.inner.values["flat"])
    assert {"state/inner/values/1", "state/inner/values/1#2", "state/more/0"} <= names
    assert [each.name for each in tmp_path.iterdir()] == ["file.safetensors"]


def test_an_empty_tensor_of_any_strides_comes_back() -> None:
    empty = torch.from_numpy(np.frombuffer(b"", dtype=np.int64).copy())
    for value in (empty, torch.empty(0, 3, dtype=torch.complex64), torch.empty(3, 0).T):
        text, stored = TREE.dump(value)
        assert same(TREE.load(text, stored), value)


def test_complex_and_half_precision_tensors_come_back_as_what_they_show() -> None:
    turned = torch.tensor([[1 + 2j, float("nan")]], dtype=torch.complex128)
    brain = torch.tensor([[1.5, float("nan")], [-0.0, 2.0]], dtype=torch.bfloat16)
    for value in (turned, turned.conj(), turned.mH, turned.conj().imag, brain, brain.T):
        text, stored = TREE.dump({"x": value})
        assert same(TREE.load(text, stored)["x"], value.resolve_conj().resolve_neg())


def test_what_was_read_shares_no_memory(tmp_path: Path) -> None:
    flat = torch.zeros(3)
    text, stored = TREE.dump({"flat": flat})
    TREE.load(text, stored)["flat"][:] = 1
    assert flat.tolist() == [0, 0, 0]


def example() -> Outer:
    generator = torch.Generator().manual_seed(1)
    flat = torch.randn(5, generator=generator)
    values = {"flat": flat, "1": torch.ones(2), 1: torch.zeros(()), "nan": float("nan")}
    return Outer(Inner(values, "x\ud800"), (b"payload", np.arange(3), torch.zeros(0, 2), None))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"a": [1, {2}]}, r"state/a/1 cannot be kept in a checkpoint: it is a set"),
        (np.array([object()]), "an array of object"),
        (torch.zeros(3).to_sparse(), r"it is a tensor of float32, torch\.sparse_coo"),
        (object(), "it is a object"),
        (Stored("U8", (0,), memoryview(b"")), "it is a Stored"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(value: Any, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        TREE.dump(value)


def test_nesting_has_an_end() -> None:
    value: Any = []
    for _ in range(100):
        value = [value]
    with pytest.raises(CheckpointError, match="nested more than 64 deep"):
        TREE.dump(value)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"pickle": "gASVBQ=="}',
        '{"object": ["Path", {}]}',
        '{"object": ["Inner", {"values": 1, "other": 2}]}',
        '{"tensor": ["flat", "qint8", [2]]}',
        '{"tensor": ["flat", "load", [2]]}',
        '{"tensor": ["flat", "float32", [3]]}',
        '{"tensor": ["absent", "float32", [2]]}',
        '{"array": ["flat", "O", [1]]}',
        '{"array": ["flat", "<f4", [-2]]}',
        '{"array": ["flat", "<f4", [1]]}',
        '{"map": [[[], 1]]}',
        '{"int": "none"}',
        '{"a": 1, "b": 2}',
        "[" * 100_000 + "]" * 100_000,
    ],
)
def test_a_skeleton_that_nobody_dumped_is_refused(text: str) -> None:
    stored = {"flat": Stored("F32", (2,), memoryview(bytes(8)))}
    with pytest.raises(CheckpointError):
        TREE.load(text, stored)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    container.write(path, TREE, example())
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="torn"):
            container.read(path, TREE)
    path.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match="checksum is wrong"):
        container.read(path, TREE)


def test_a_file_with_any_byte_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    container.write(path, TREE, example())
    data = path.read_bytes()
    for place in range(len(data)):
        bit = 1 << place % 8
        changed = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="torn"):
            container.read(path, TREE)


def test_a_right_checksum_over_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    for version in (1, 2, 4):
        monkeypatch.setattr(container, "VERSION", version)
        container.write(path, TREE, [1])
        monkeypatch.undo()
        with pytest.raises(CheckpointError, match=rf"version {version}, .*reads version 3 only"):
            container.read(path, TREE)
    with pytest.raises(CheckpointError, match="not readable"):
        container.read(tmp_path / "absent", TREE)
    checksum = container.write(path, TREE, [1])
    with pytest.raises(CheckpointError, match="another checksum"):
        container.read(path, TREE, checksum[::-1])


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    container.write(path, TREE, [1])
    blocked = tmp_path / ".file.new"
    blocked.mkdir()
    with pytest.raises(CheckpointError, match=r"file cannot be written: Is a directory"):
        container.write(path, TREE, [2])
    assert container.read(path, TREE) == [1]
    assert json.loads(path.read_bytes()[8:].partition(b"\n")[0])  # a header is all there is
