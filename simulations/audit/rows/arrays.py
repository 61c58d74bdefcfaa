"""Arrays that are not those of the model: names, shapes, types."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from hqde_fl.simulations.audit.row import Row
from hqde_fl.simulations.audit.tamper import (
    ARRAYS,
    BIAS,
    STEPS,
    WEIGHT,
    answer,
    array,
    extra,
    lying,
    weight,
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
    Row("missing-array", "leaves an array out", "rejected: missing", without(ARRAYS, BIAS)),
    Row("extra-array", "sends one array more", "rejected: unknown array", extra("more", ONE)),
    Row(
        "many-arrays", "sends 2,000 arrays more", "rejected: unknown array 'more.0'", answer(_many)
    ),
    Row(
        "path-like-array",
        "names an array like a file",
        "rejected: unknown array '../../etc/passwd'",
        extra("../../etc/passwd", ONE),
    ),
    Row(
        "unicode-array",
        "names an array like one of the model's, in other letters",
        "rejected: unknown array",
        extra("lаyer.weight", ONE),  # noqa: RUF001  # the first a is Cyrillic
    ),
    Row(
        "surrogate-array",
        "names an array with half a character",
        "rejected: unknown array '\\udcff",
        extra("\udcff", ONE),
    ),
    Row("long-array-name", "names an array with a megabyte", "rejected: ", extra("x" * 2**20, ONE)),
    Row("other-order", "sends the arrays in another order", "", answer(_shuffled)),
    Row("aliased-arrays", "sends one array for all", "rejected: wrong shape", answer(_aliased)),
    Row("transposed", "transposes a matrix", "rejected: wrong shape", weight(lambda w: w.T.copy())),
    Row(
        "broadcastable",
        "sends one number that NumPy would stretch",
        "rejected: wrong shape (1,)",
        weight(lambda w: w[0, :1].copy()),
    ),
    Row(
        "zero-d",
        "sends a number without dimensions",
        "rejected: wrong shape ()",
        weight(lambda w: np.array(w[0, 0])),
    ),
    Row("empty-array", "sends no numbers", "rejected: wrong shape (0, 6)", weight(lambda w: w[:0])),
    Row(
        "shape-of-10^9",
        "claims a billion numbers",
        "rejected: wrong shape (1000000000,)",
        lying(shape=(10**9,)),
    ),
    Row(
        "shape-of-10^30",
        "claims more numbers than 64 bits count",
        "rejected: wrong shape (1000000",
        lying(shape=(10**30,)),
    ),
    Row(
        "negative-shape",
        "claims negative dimensions",
        "rejected: wrong shape (-8, -6)",
        lying(shape=(-8, -6)),
    ),
    Row(
        "a-million-dimensions",
        "claims a million dimensions",
        "rejected: wrong shape (1, 1, 1",
        lying(shape=(1,) * 10**6),
    ),
    Row(
        "lying-shape",
        "sends six numbers as forty-eight",
        "rejected: the .npy header says float32 (6,)",
        array(WEIGHT, lambda a: Array("float32", a.shape, a.stype, Array(a.numpy()[0]).data)),
    ),
    Row(
        "float64",
        "sends float64 for float32",
        "rejected: wrong dtype 'float64'",
        weight(lambda w: w.astype(np.float64)),
    ),
    Row(
        "float16",
        "sends float16 for float32",
        "rejected: wrong dtype 'float16'",
        weight(lambda w: w.astype(np.float16)),
    ),
    Row(
        "integers",
        "sends integers for floats",
        "rejected: wrong dtype 'int32'",
        weight(lambda w: w.astype(np.int32)),
    ),
    Row(
        "floats-for-integers",
        "sends a float for the counter",
        "rejected: wrong dtype 'float32' of 'steps'",
        array(STEPS, lambda a: Array(np.array(3, np.float32))),
    ),
    Row(
        "huge-integer",
        "sends the largest integer for the counter",
        "",
        array(STEPS, lambda a: Array(np.array(2**63 - 1))),
    ),
    Row(
        "complex",
        "sends complex numbers",
        "rejected: wrong dtype 'complex64'",
        weight(lambda w: w.astype(np.complex64)),
    ),
    Row(
        "strings",
        "sends text for numbers",
        "rejected: wrong dtype '<U1'",
        weight(lambda w: np.full(w.shape, "x")),
    ),
    Row(
        "void",
        "sends raw records for numbers",
        "rejected: wrong dtype",
        weight(lambda w: np.zeros(w.shape, [("a", "f4"), ("b", "f4")])),
    ),
    Row(
        "surrogate-dtype",
        "names a dtype with half a character",
        "rejected: wrong dtype '\\udcff'",
        lying(dtype="\udcff"),
    ),
    Row(
        "unknown-stype",
        "names another serialisation",
        "rejected: unknown serialisation type 'pickle'",
        lying(stype="pickle"),
    ),
)
