"""Records survive being packed for Ray, and arrays are read as Flower reads them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from hqde_fl.simulations.engines.ray.packing import pack, unpack


def travelled(content: RecordDict) -> RecordDict:
    """Return the content after pickling, with large arrays out of band, as in Ray."""
    buffers: list[Any] = []
    inside = pickle.dumps(pack(content), 5, buffer_callback=buffers.append)
    views = [memoryview(bytes(buffer)) for buffer in buffers]
    return unpack(pickle.loads(inside, buffers=views))


@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_equal_writable_and_their_own(size: int, dtype: str, order: str) -> None:
    values = np.asarray(np.arange(2 * size).reshape(2, size) % 7, dtype=dtype, order=order)
    content = travelled(RecordDict({"arrays": ArrayRecord({"a": Array(values)})}))
    array = content.array_records["arrays"]["a"]
    found = array.numpy()
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype
    found[:] = 0
    np.testing.assert_array_equal(array.numpy(), values)


def test_other_records_and_odd_arrays_travel_as_they_are() -> None:
    odd = Array("float32", (2,), "something-else", bytes(50_000))
    content = RecordDict(
        {
            "arrays": ArrayRecord({"odd": odd}),
            "metrics": MetricRecord({"a": 1, "b": [0.5]}),
            "config": ConfigRecord({"c": b"bytes", "d": "text", "e": True}),
        }
    )
    found = travelled(content)
    array = found.array_records["arrays"]["odd"]
    assert (array.dtype, array.shape, array.stype) == (odd.dtype, odd.shape, odd.stype)
    assert bytes(array.data) == odd.data
    with pytest.raises(TypeError, match="something-else"):
        array.numpy()
    assert found.metric_records["metrics"] == {"a": 1, "b": [0.5]}
    assert found.config_records["config"] == {"c": b"bytes", "d": "text", "e": True}


def test_garbage_is_refused_as_flower_refuses_it() -> None:
    array = Array("float32", (2,), "numpy.ndarray", bytes(50_000))
    content = travelled(RecordDict({"arrays": ArrayRecord({"a": array})}))
    with pytest.raises(ValueError, match="allow_pickle"):
        content.array_records["arrays"]["a"].numpy()
