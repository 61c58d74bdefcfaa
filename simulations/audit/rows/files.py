"""Bytes that are not the .npy file they say they are."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
from flwr.app import Array

from hqde_fl.simulations.audit.canary import Canary
from hqde_fl.simulations.audit.row import Row
from hqde_fl.simulations.audit.tamper import WEIGHT, array, data, header, lying

NOT_NPY = "rejected: not the bytes of an .npy array"
MALFORMED = "rejected: malformed reply ("


def _header(descr: str = "'<f4'", shape: str = "(8, 6)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def _pickled(honest: Array) -> Array:
    """An array of objects, whose loading would run code."""
    file = io.BytesIO()
    np.save(file, np.array([[Canary()]], dtype=object), allow_pickle=True)
    return Array("object", (1, 1), honest.stype, file.getvalue())


def _disguised(honest: Array) -> Array:
    """The same bytes, said to be the numbers expected."""
    return Array(honest.dtype, honest.shape, honest.stype, _pickled(honest).data)


def _zipped(honest: bytes) -> bytes:
    """An .npz with a member that inflates to 64 MiB from 64 KiB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", bytes(2**26))
    return file.getvalue()


def _fortran(honest: Array) -> Array:
    return Array(np.asfortranarray(honest.numpy()))


def _big_endian(honest: Array) -> Array:
    swapped = Array(honest.numpy().astype(">f4"))
    return Array("float32", honest.shape, honest.stype, swapped.data)


ROWS = (
    Row("garbage-bytes", "sends any bytes", NOT_NPY, lying(data=bytes(range(256)))),
    Row("no-bytes", "sends no bytes", NOT_NPY, lying(data=b"")),
    Row(
        "truncated",
        "cuts the last number off",
        "rejected: 188 bytes for 48 ",
        data(lambda d: d[:-4]),
    ),
    Row(
        "trailing-bytes",
        "adds a number",
        "rejected: 196 bytes for 48",
        data(lambda d: d + bytes(4)),
    ),
    Row(
        "header-of-64-GiB",
        "claims 64 GiB in the .npy header",
        "rejected: the .npy header says float32 (131072, 131072)",
        header(_header(shape="(131072, 131072)")),
    ),
    Row(
        "header-without-end",
        "claims a header longer than the file",
        "rejected: the .npy header is longer",
        data(lambda d: d[:8] + b"\xff\xff" + d[10:]),
    ),
    Row(
        "unknown-npy-version",
        "claims version 9 of the format",
        NOT_NPY,
        data(lambda d: d[:6] + b"\x09\x00" + d[8:]),
    ),
    Row(
        "code-in-header",
        "writes code into the header",
        MALFORMED,
        header("__import__('os').abort()"),
    ),
    Row(
        "deep-header",
        "nests 3,000 brackets in the header",
        MALFORMED,
        header(_header(shape="(" * 1500 + ")" * 1500)),
    ),
    Row(
        "deep-dtype",
        "nests 200 dtypes in the header",
        "rejected: ",
        header(_header(descr="[('a', " * 200 + "'<f4'" + ")]" * 200)),
    ),
    Row("minus-signs", "writes 3,000 minus signs", MALFORMED, header("-" * 3000 + "1")),
    Row("header-without-keys", "leaves the shape out of the header", MALFORMED, header("{}")),
    Row(
        "lying-dtype",
        "sends float64 bytes as float32",
        "rejected: the .npy header says float64",
        header(_header(descr="'<f8'")),
    ),
    Row(
        "pickled",
        "sends pickled objects, which run code when loaded",
        "rejected: wrong shape",
        array(WEIGHT, _pickled),
    ),
    Row(
        "pickled-in-disguise",
        "says that pickled objects are numbers",
        "rejected: the .npy header says object",
        array(WEIGHT, _disguised),
    ),
    Row(
        "bare-pickle",
        "sends a pickle for an .npy file",
        NOT_NPY,
        data(lambda d: pickle.dumps(Canary())),
    ),
    Row("zip-bomb", "sends an archive that inflates a thousandfold", NOT_NPY, data(_zipped)),
    Row("fortran-order", "sends its numbers column by column", "", array(WEIGHT, _fortran)),
    Row(
        "big-endian",
        "sends its numbers in the other byte order",
        "rejected: the .npy header says >f4",
        array(WEIGHT, _big_endian),
    ),
)
