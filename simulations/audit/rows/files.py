"""Hostile replies whose arrays are not valid .npy files, or not those that they claim to be."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
from flwr.app import Array

from hqde_fl.simulations.audit.catalogue_row import CatalogueRow
from hqde_fl.simulations.audit.message_changes import (
    WEIGHT,
    with_array,
    with_bytes,
    with_false_fields,
    with_header,
)
from hqde_fl.simulations.audit.pickle_canary import Canary

NOT_NPY = "rejected: not the bytes of an .npy array"
MALFORMED = "rejected: malformed reply ("


def _header(descr: str = "'<f4'", shape: str = "(8, 6)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def _pickled(honest: Array) -> Array:
    """Return an array of pickled objects, which run code when loaded."""
    file = io.BytesIO()
    np.save(file, np.array([[Canary()]], dtype=object), allow_pickle=True)
    return Array("object", (1, 1), honest.stype, file.getvalue())


def _disguised(honest: Array) -> Array:
    """Return pickled objects under the dtype and shape of the honest array."""
    return Array(honest.dtype, honest.shape, honest.stype, _pickled(honest).data)


def _zipped(honest: bytes) -> bytes:
    """Return an .npz archive of 64 KiB that inflates to 64 MiB; ``honest`` is ignored."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", bytes(2**26))
    return file.getvalue()


def _fortran(honest: Array) -> Array:
    return Array(np.asfortranarray(honest.numpy()))


ROWS = (
    CatalogueRow(
        "garbage-bytes", "sends any bytes", NOT_NPY, with_false_fields(data=bytes(range(256)))
    ),
    CatalogueRow("no-bytes", "sends no bytes", NOT_NPY, with_false_fields(data=b"")),
    CatalogueRow(
        "truncated",
        "cuts the last number off",
        "rejected: 188 bytes for 48 ",
        with_bytes(lambda d: d[:-4]),
    ),
    CatalogueRow(
        "trailing-bytes",
        "adds a number",
        "rejected: 196 bytes for 48",
        with_bytes(lambda d: d + bytes(4)),
    ),
    CatalogueRow(
        "header-of-64-GiB",
        "claims 64 GiB in the .npy header",
        "rejected: the .npy header says float32 (131072, 131072)",
        with_header(_header(shape="(131072, 131072)")),
    ),
    CatalogueRow(
        "header-without-end",
        "claims a header longer than the file",
        "rejected: the .npy header is longer",
        with_bytes(lambda d: d[:8] + b"\xff\xff" + d[10:]),
    ),
    CatalogueRow(
        "unknown-npy-version",
        "claims version 9 of the format",
        NOT_NPY,
        with_bytes(lambda d: d[:6] + b"\x09\x00" + d[8:]),
    ),
    CatalogueRow(
        "code-in-header",
        "writes code into the header",
        MALFORMED,
        with_header("__import__('os').abort()"),
    ),
    CatalogueRow(
        "deep-header",
        "nests 3,000 brackets in the header",
        MALFORMED,
        with_header(_header(shape="(" * 1500 + ")" * 1500)),
    ),
    CatalogueRow(
        "deep-dtype",
        "nests 200 dtypes in the header",
        "rejected: ",
        with_header(_header(descr="[('a', " * 200 + "'<f4'" + ")]" * 200)),
    ),
    CatalogueRow(
        "minus-signs", "writes 3,000 minus signs", MALFORMED, with_header("-" * 3000 + "1")
    ),
    CatalogueRow(
        "header-without-keys", "leaves the shape out of the header", MALFORMED, with_header("{}")
    ),
    CatalogueRow(
        "lying-dtype",
        "sends float64 bytes as float32",
        "rejected: the .npy header says float64",
        with_header(_header(descr="'<f8'")),
    ),
    CatalogueRow(
        "pickled",
        "sends pickled objects, which run code when loaded",
        "rejected: wrong shape",
        with_array(WEIGHT, _pickled),
    ),
    CatalogueRow(
        "pickled-in-disguise",
        "says that pickled objects are numbers",
        "rejected: the .npy header says object",
        with_array(WEIGHT, _disguised),
    ),
    CatalogueRow(
        "bare-pickle",
        "sends a pickle for an .npy file",
        NOT_NPY,
        with_bytes(lambda d: pickle.dumps(Canary())),
    ),
    CatalogueRow(
        "zip-bomb", "sends an archive that inflates a thousandfold", NOT_NPY, with_bytes(_zipped)
    ),
    CatalogueRow(
        "fortran-order", "sends its numbers column by column", "", with_array(WEIGHT, _fortran)
    ),
)
