"""Arrays of every dtype and byte order: what is read is what was sent, bit for bit."""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.protocol import npy
from hqde_fl.protocol.npy import MalformedError, decode_array, native_dtype, view_array
from hqde_fl.protocol.records import from_record, layout_of, to_array, to_record
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, SentModel, screen
from hqde_fl.updates.roles import SUPPORTED_DTYPES

DTYPES = sorted(SUPPORTED_DTYPES)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def of_bytes(dtype: str, shape: tuple[int, ...], data: st.DataObject) -> Tensor:
    """Return a tensor of any bytes, NaN of every kind among them."""
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    count = int(np.prod(shape, dtype=int)) * size
    raw = bytearray(data.draw(st.binary(min_size=count, max_size=count)))
    if dtype == "bool":
        raw = bytearray(byte & 1 for byte in raw)
    flat = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    return flat.clone().view(getattr(torch, dtype)).reshape(shape)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=SHAPES, data=st.data())
def test_a_tensor_survives_an_array(
    dtype: str, shape: tuple[int, ...], data: st.DataObject
) -> None:
    tensor = of_bytes(dtype, shape, data)
    array = to_array(tensor)
    assert (array.dtype, tuple(array.shape)) == (dtype, shape)
    back = decode_array(array)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert bits(back) == bits(tensor)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_conjugates_and_transposes_are_sent_as_what_they_show(dtype: str) -> None:
    tensor = torch.tensor([[1 + 2j, 3 - 1j], [0.5j, -4]], dtype=getattr(torch, dtype))
    for view in (tensor.conj(), tensor.T, tensor.mH, tensor.conj().imag, tensor[:, 1]):
        assert torch.equal(decode_array(to_array(view)), view.resolve_conj().resolve_neg())


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "c8", "c16", "i2", "i8"])
@pytest.mark.parametrize(
    ("said", "written"), [(">", ">"), ("<", ">"), (">", "<"), ("", ">"), ("", "<")]
)
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)])
def test_any_byte_order_is_read_and_converted(
    kind: str, said: str, written: str, shape: tuple[int, ...]
) -> None:
    values = np.arange(6)[: int(np.prod(shape, dtype=int))].reshape(shape).astype(written + kind)
    array = Array(said + kind, shape, npy.NUMPY, Array(values).data)
    back = decode_array(array)
    assert back.numpy().dtype.isnative
    np.testing.assert_array_equal(back.numpy(), values)
    assert native_dtype(array.dtype) == np.dtype(kind).name == str(back.dtype).split(".")[1]
    np.testing.assert_array_equal(view_array(array), values)


def test_another_kind_of_number_in_the_header_is_refused() -> None:
    array = Array("float32", (2,), npy.NUMPY, Array(np.ones(2, ">f8")).data)
    with pytest.raises(MalformedError, match=re.escape("the .npy header says >f8 (2,)")):
        decode_array(array)


@pytest.mark.parametrize(
    ("name", "native"),
    [
        *[(f"{order}f4", "float32") for order in ("", "<", ">", "=")],
        *[(f"{order}c16", "complex128") for order in ("", "<", ">", "=")],
        (">i8", "int64"),
        ("|b1", "bool"),
        *[(name, name) for name in DTYPES],
        *[(n, n) for n in ("<U1", "O", "f4,f4", "(2,)f4", "M8[s]", "", "\udcff", "no", "f4\0")],
        ("f4," * 1000, "f4," * 1000),
    ],
)
def test_the_native_name_of_a_dtype(name: str, native: str) -> None:
    assert native_dtype(name) == native


@given(st.text())
def test_a_name_of_a_dtype_never_raises(name: str) -> None:
    assert isinstance(native_dtype(name), str)


def test_names_of_dtypes_cannot_fill_the_memory() -> None:
    for number in range(2000):
        native_dtype(f"x{number}")
        native_dtype("x" * 1000 + str(number))
    assert npy._native_dtype.cache_info().currsize <= 256


def test_a_dtype_that_cannot_be_carried_is_named() -> None:
    eighth = torch.zeros(2).to(torch.float8_e4m3fn)
    with pytest.raises(ConfigError, match=r"entry 'a\.b' needs a dtype .*, found float8_e4m3fn"):
        to_record({"a.b": eighth})
    with pytest.raises(ConfigError, match=r"a tensor needs a dtype .*, found float8_e4m3fn"):
        to_array(eighth)


# --- replies --------------------------------------------------------------------------------------

MODEL = {
    "weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "phase": torch.tensor([1 + 1j, 2 - 1j], dtype=torch.complex64),
    "steps": torch.tensor(3),
}
CHANGED: dict[str, NDArray[Any]] = {
    "weight": np.array([[2.0, 2.0], [3.0, 4.5]], np.float32),
    "phase": np.array([1 + 2j, 2 - 1j], np.complex64),
    "steps": np.array(4),
}


def screened(arrays: dict[str, NDArray[Any]]) -> Accepted | Rejected:
    layout = layout_of(to_record(MODEL))
    record = ArrayRecord({name: Array(values) for name, values in arrays.items()})
    content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 3})})
    reply: Message = make_message(Metadata(1, "m", 2, 1, "q", "", 0.0, 9.0, "train"), content)
    return screen(reply, SentModel(layout, *layout.flatten(MODEL)), Screening())


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_reply_in_any_byte_order_is_the_same_update(order: Literal["<", ">"]) -> None:
    result = screened({n: v.astype(v.dtype.newbyteorder(order)) for n, v in CHANGED.items()})
    assert isinstance(result, Accepted), result
    assert result.delta.tolist() == [1, 0, 0, 0.5, 0, 1, 0, 0]  # complex numbers as pairs
    assert result.others["steps"] == 4
    assert result.others["steps"].numpy().dtype.isnative


@pytest.mark.parametrize("value", [complex(0, np.nan), complex(np.inf, 0)])
def test_a_complex_number_that_is_not_finite_is_rejected(value: complex) -> None:
    phase = np.array([value, 1], np.complex64)
    assert screened({**CHANGED, "phase": phase}) == Rejected("non-finite update")


def test_the_layout_of_big_endian_arrays_has_plain_names() -> None:
    record = ArrayRecord({"weight": Array(np.ones(2, ">f4"))})
    layout = layout_of(record)
    assert layout.entries[0].dtype == "float32"
    flat, others = layout.flatten(from_record(record))
    assert torch.equal(layout.restore(flat, others)["weight"], torch.ones(2))
