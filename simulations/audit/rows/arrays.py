"""Hostile replies with arrays of other names, shapes or dtypes than the model's."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from hqde_fl.simulations.audit.catalogue_row import CatalogueRow
from hqde_fl.simulations.audit.message_changes import (
    ARRAYS,
    BIAS,
    STEPS,
    WEIGHT,
    with_array,
    with_content,
    with_extra_array,
    with_false_fields,
    with_weight,
    without,
)

ONE = Array(np.ones((2, 3), np.float32))


def _aliased(content: RecordDict) -> RecordDict:
    one = content.array_records[ARRAYS][WEIGHT]
    content[ARRAYS] = ArrayRecord({name: one for name in (WEIGHT, BIAS, STEPS)})
    return content


def _shuffled(content: RecordDict) -> RecordDict:
    record = content.array_records[ARRAYS]
    content[ARRAYS] = ArrayRecord({name: record[name] for name in reversed(list(record))})
    return content


def _many(content: RecordDict) -> RecordDict:
    record = content.array_records[ARRAYS]
    content[ARRAYS] = ArrayRecord({**record, **{f"more.{i}": ONE for i in range(2_000)}})
    return content


ROWS = (
    CatalogueRow(
        "missing-array", "leaves an array out", "rejected: missing", without(ARRAYS, BIAS)
    ),
    CatalogueRow(
        "extra-array",
        "sends one array more",
        "rejected: unknown array",
        with_extra_array("more", ONE),
    ),
    CatalogueRow(
        "many-arrays",
        "sends 2,000 arrays more",
        "rejected: unknown array 'more.0'",
        with_content(_many),
    ),
    CatalogueRow(
        "path-like-array",
        "names an array like a file",
        "rejected: unknown array '../../etc/passwd'",
        with_extra_array("../../etc/passwd", ONE),
    ),
    CatalogueRow(
        "unicode-array",
        "names an array like one of the model's, in other letters",
        "rejected: unknown array",
        with_extra_array("lаyer.weight", ONE),  # noqa: RUF001  # the first a is Cyrillic
    ),
    CatalogueRow(
        "surrogate-array",
        "names an array with half a character",
        "rejected: unknown array '\\udcff",
        with_extra_array("\udcff", ONE),
    ),
    CatalogueRow(
        "long-array-name",
        "names an array with a megabyte",
        "rejected: ",
        with_extra_array("x" * 2**20, ONE),
    ),
    CatalogueRow("other-order", "sends the arrays in another order", "", with_content(_shuffled)),
    CatalogueRow(
        "aliased-arrays", "sends one array for all", "rejected: wrong shape", with_content(_aliased)
    ),
    CatalogueRow(
        "transposed",
        "transposes a matrix",
        "rejected: wrong shape",
        with_weight(lambda w: w.T.copy()),
    ),
    CatalogueRow(
        "broadcastable",
        "sends one number that NumPy would stretch",
        "rejected: wrong shape (1,)",
        with_weight(lambda w: w[0, :1].copy()),
    ),
    CatalogueRow(
        "zero-d",
        "sends a number without dimensions",
        "rejected: wrong shape ()",
        with_weight(lambda w: np.array(w[0, 0])),
    ),
    CatalogueRow(
        "empty-array",
        "sends no numbers",
        "rejected: wrong shape (0, 6)",
        with_weight(lambda w: w[:0]),
    ),
    CatalogueRow(
        "shape-of-10^9",
        "claims a billion numbers",
        "rejected: wrong shape (1000000000,)",
        with_false_fields(shape=(10**9,)),
    ),
    CatalogueRow(
        "shape-of-10^30",
        "claims more numbers than 64 bits count",
        "rejected: wrong shape (1000000",
        with_false_fields(shape=(10**30,)),
    ),
    CatalogueRow(
        "negative-shape",
        "claims negative dimensions",
        "rejected: wrong shape (-8, -6)",
        with_false_fields(shape=(-8, -6)),
    ),
    CatalogueRow(
        "a-million-dimensions",
        "claims a million dimensions",
        "rejected: wrong shape (1, 1, 1",
        with_false_fields(shape=(1,) * 10**6),
    ),
    CatalogueRow(
        "lying-shape",
        "sends six numbers as forty-eight",
        "rejected: the .npy header says float32 (6,)",
        with_array(WEIGHT, lambda a: Array("float32", a.shape, a.stype, Array(a.numpy()[0]).data)),
    ),
    CatalogueRow(
        "float64",
        "sends float64 for float32",
        "rejected: wrong dtype 'float64'",
        with_weight(lambda w: w.astype(np.float64)),
    ),
    CatalogueRow(
        "float16",
        "sends float16 for float32",
        "rejected: wrong dtype 'float16'",
        with_weight(lambda w: w.astype(np.float16)),
    ),
    CatalogueRow(
        "integers",
        "sends integers for floats",
        "rejected: wrong dtype 'int32'",
        with_weight(lambda w: w.astype(np.int32)),
    ),
    CatalogueRow(
        "floats-for-integers",
        "sends a float for the counter",
        "rejected: wrong dtype 'float32' of 'steps'",
        with_array(STEPS, lambda a: Array(np.array(3, np.float32))),
    ),
    CatalogueRow(
        "huge-integer",
        "sends the largest integer for the counter",
        "",
        with_array(STEPS, lambda a: Array(np.array(2**63 - 1))),
    ),
    CatalogueRow(
        "complex",
        "sends complex numbers",
        "rejected: wrong dtype 'complex64'",
        with_weight(lambda w: w.astype(np.complex64)),
    ),
    CatalogueRow(
        "strings",
        "sends text for numbers",
        "rejected: wrong dtype '<U1'",
        with_weight(lambda w: np.full(w.shape, "x")),
    ),
    CatalogueRow(
        "void",
        "sends raw records for numbers",
        "rejected: wrong dtype",
        with_weight(lambda w: np.zeros(w.shape, [("a", "f4"), ("b", "f4")])),
    ),
    CatalogueRow(
        "surrogate-dtype",
        "names a dtype with half a character",
        "rejected: wrong dtype '\\udcff'",
        with_false_fields(dtype="\udcff"),
    ),
    CatalogueRow(
        "unknown-stype",
        "names another serialisation",
        "rejected: unknown serialisation type 'pickle'",
        with_false_fields(stype="pickle"),
    ),
)
