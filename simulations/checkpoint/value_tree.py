"""Convert nested values to one line of JSON and named arrays, and back, without loss.

The values may be None, booleans, numbers of any size (nan and infinities too), strings, bytes,
lists, tuples, mappings with keys of any of these, tensors, arrays, NumPy scalars, and dataclasses
that are given to ``ValueTree``. All come back with their types, except that a mapping becomes a
dict and a tensor is on the CPU. Unlike a pickle, a file cannot create anything else or run code: an
unknown class or kind is an error.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from hqde_fl.errors import CheckpointError

MAX_DEPTH = 64
"""Maximum number of levels of nesting."""

PLAIN = {
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
"""Number types of torch -> their names in safetensors; others are stored as bytes."""

NUMBERS = frozenset(
    name for name, value in vars(torch).items() if isinstance(value, torch.dtype)
) - {"quint8", "qint8", "qint32", "quint4x2", "quint2x4"}
KINDS = "biufcmMSU"
"""Kinds of NumPy dtypes that can be stored: those without Python objects."""


@dataclass(frozen=True, eq=False)
class Stored:
    """An array in a file.

    Parameters
    ----------
    dtype : str
        Name of its number type in safetensors.
    shape : tuple[int, ...]
        Shape of the array in numbers of this type.
    data : memoryview
        Bytes of the array.
    """

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


@final
class ValueTree:
    """Writer and reader of nested values.

    Parameters
    ----------
    *classes : type
        The dataclasses that the values may contain; a file holds their names.
    """

    def __init__(self, *classes: type) -> None:
        self._classes = {cls.__name__: cls for cls in classes}

    def dump(self, value: Any) -> tuple[str, dict[str, Stored]]:
        """Return a value's skeleton as JSON, and its arrays by name, which may share its memory.

        Raises
        ------
        CheckpointError
            If part of the value cannot be stored; the message has its path and its type.
        """
        writer = _TreeWriter(self._classes, {})
        skeleton = writer.write(value, "state", 0)
        return json.dumps(skeleton, allow_nan=False, separators=(",", ":")), writer.arrays

    def load(self, text: str, arrays: Mapping[str, Stored]) -> Any:
        """Return the value that ``dump`` has converted; its arrays are copies.

        Raises
        ------
        CheckpointError
            If ``dump`` cannot have written this.
        """
        try:
            return _TreeReader(self._classes, arrays).read(json.loads(text))
        except CheckpointError:
            raise
        except Exception as error:  # any failure means that the file is malformed
            raise CheckpointError(f"malformed content ({type(error).__name__}: {error})") from None


@dataclass(frozen=True, eq=False)
class _TreeWriter:
    classes: Mapping[str, type]
    arrays: dict[str, Stored]

    def write(self, value: Any, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise CheckpointError(f"{path} is nested more than {MAX_DEPTH} deep")
        below = depth + 1
        if value is None or type(value) in (bool, str):
            return value
        if type(value) is int:
            return value if abs(value) < 1 << 53 else {"int": hex(value)}
        if type(value) is float:
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if isinstance(value, bytes | bytearray | memoryview | pickle.PickleBuffer):
            data = memoryview(value)
            data = data.cast("B") if data.nbytes else memoryview(b"")
            return {"bytes": self._store(path, Stored("U8", (data.nbytes,), data))}
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value, path)}
        if isinstance(value, np.ndarray):
            return {"array": self._array(value, path)}
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), path)}
        if type(value) in (list, tuple, torch.Size):
            items = [self.write(v, f"{path}/{i}", below) for i, v in enumerate(value)]
            return items if type(value) is list else {"tuple": items}
        if isinstance(value, Mapping):
            keys = [self.write(key, f"{path}/key", below) for key in value]
            items = [self.write(v, f"{path}/{str(k)[:80]}", below) for k, v in value.items()]
            return {"map": [list(pair) for pair in zip(keys, items, strict=True)]}
        name = type(value).__name__
        if self.classes.get(name) is type(value):
            fields = [field.name for field in dataclasses.fields(self.classes[name]) if field.init]
            parts = {f: self.write(getattr(value, f), f"{path}/{f}", below) for f in fields}
            return {"object": [name, parts]}
        raise CheckpointError(f"{path} cannot be kept in a checkpoint: it is a {name}")

    def _tensor(self, tensor: Tensor, path: str) -> list[Any]:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.layout != torch.strided or dtype not in NUMBERS:
            kind = f"a tensor of {dtype}, {tensor.layout}"
            raise CheckpointError(f"{path} cannot be kept in a checkpoint: it is {kind}")
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        # an empty tensor may have strides with which it cannot be viewed as bytes
        flat = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
        raw = memoryview(flat)
        return [self._store(path, _stored(dtype, tuple(tensor.shape), raw)), dtype, [*tensor.shape]]

    def _array(self, array: np.ndarray[Any, Any], path: str) -> list[Any]:
        dtype = array.dtype
        if dtype.kind not in KINDS:
            raise CheckpointError(f"{path} cannot be kept in a checkpoint: an array of {dtype}")
        raw = memoryview(array.tobytes())
        name = dtype.name if dtype.isnative else ""
        return [self._store(path, _stored(name, array.shape, raw)), dtype.str, [*array.shape]]

    def _store(self, path: str, stored: Stored) -> str:
        base = path.encode("ascii", "backslashreplace").decode()
        name, number = base, 1
        while name in self.arrays:  # keys such as "1" and 1 have the same path
            number += 1
            name = f"{base}#{number}"
        self.arrays[name] = stored
        return name


@dataclass(frozen=True, eq=False)
class _TreeReader:
    classes: Mapping[str, type]
    arrays: Mapping[str, Stored]

    def read(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.read(item) for item in node]
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        match kind:
            case "int":
                return int(content, 16)
            case "float":
                return struct.unpack(">d", bytes.fromhex(content))[0]
            case "bytes":
                return bytes(self.arrays[content].data)
            case "tensor":
                return self._tensor(*content)
            case "array":
                return self._array(*content)
            case "scalar":
                return self._array(*content)[()]
            case "tuple":
                return tuple(self.read(item) for item in content)
            case "map":
                return {self.read(key): self.read(value) for key, value in content}
            case "object":
                name, parts = content
                return self.classes[name](**{key: self.read(part) for key, part in parts.items()})
        raise CheckpointError(f"unknown kind {kind[:40]!r} of value")

    def _tensor(self, name: str, dtype: str, shape: list[int]) -> Tensor:
        if dtype not in NUMBERS:
            raise CheckpointError(f"unknown dtype {dtype[:40]!r}")
        data = self.arrays[name].data
        flat = torch.empty(len(data), dtype=torch.uint8)  # memory of torch, so that it is aligned
        flat.numpy()[:] = data
        return flat.view(getattr(torch, dtype)).reshape(shape)

    def _array(self, name: str, dtype: str, shape: list[int]) -> np.ndarray[Any, Any]:
        parsed = np.dtype(dtype)
        if parsed.kind not in KINDS:
            raise CheckpointError(f"unknown dtype {dtype[:40]!r}")
        data = bytearray(self.arrays[name].data)
        if len(data) != math.prod(shape) * parsed.itemsize:
            raise CheckpointError(f"{len(data)} bytes for an array of shape {shape} and {dtype}")
        return np.ndarray(tuple(shape), parsed, buffer=data)


def _stored(dtype: str, shape: tuple[int, ...], raw: memoryview) -> Stored:
    """Return an array for a file: of number type ``dtype`` if safetensors has it, else of bytes."""
    if dtype in PLAIN:
        return Stored(PLAIN[dtype], shape, raw)
    return Stored("U8", (raw.nbytes,), raw)
