"""Hostile replies that are not one record of arrays and one of metrics."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from hqde_fl.simulations.audit.catalogue_row import AnswerContext, CatalogueRow, Reply
from hqde_fl.simulations.audit.message_changes import (
    ARRAYS,
    METRICS,
    with_content,
    with_record,
    with_renamed_record,
    without,
)

CONTEXT_BYTES = 500 * 2**20
"""Bytes that a hostile client stores in its own context."""


def _hoarding(case: AnswerContext) -> list[Reply]:
    case.context.state["junk"] = ConfigRecord({"junk": bytes(CONTEXT_BYTES)})
    return with_content(lambda content: content)(case)  # type: ignore[return-value]


def _alias(old: str, new: str) -> CatalogueRow:
    def change(content: RecordDict) -> RecordDict:
        content[new] = content[old]
        return content

    kind = "ArrayRecord" if old == ARRAYS else "MetricRecord"
    return CatalogueRow(
        f"{old}-twice",
        f"sends its {old} under two names",
        f"rejected: expected one {kind}",
        with_content(change),
    )


def _swapped(content: RecordDict) -> RecordDict:
    return RecordDict({ARRAYS: content[METRICS], METRICS: content[ARRAYS]})


ROWS = (
    CatalogueRow(
        "nothing",
        "sends no records",
        "rejected: expected one",
        with_content(lambda _: RecordDict()),
    ),
    CatalogueRow(
        "no-arrays", "sends metrics only", "rejected: expected one ArrayRecord", without(ARRAYS)
    ),
    CatalogueRow(
        "no-metrics", "sends arrays only", "rejected: expected one MetricRecord", without(METRICS)
    ),
    CatalogueRow(
        "empty-arrays",
        "sends no array",
        "rejected: missing array",
        with_record(ARRAYS, ArrayRecord()),
    ),
    CatalogueRow(
        "empty-metrics",
        "sends no metric",
        "rejected: metric 'num-examples' is missing",
        with_record(METRICS, MetricRecord()),
    ),
    CatalogueRow(
        "two-array-records",
        "sends arrays twice, the second time others",
        "rejected: expected one ArrayRecord 'arrays', found 2",
        with_record("again", ArrayRecord([np.ones((2, 3), np.float32)])),
    ),
    _alias(ARRAYS, "again"),
    _alias(METRICS, "again"),
    CatalogueRow(
        "another-record-name",
        "calls its arrays weights",
        "rejected: expected one ArrayRecord 'arrays', found 1 ('weights')",
        with_renamed_record(ARRAYS, "weights"),
    ),
    CatalogueRow(
        "another-metrics-name",
        "calls its metrics otherwise",
        "",
        with_renamed_record(METRICS, "scores"),
    ),
    CatalogueRow(
        "swapped-records", "swaps the names of its records", "rejected: ", with_content(_swapped)
    ),
    CatalogueRow(
        "surrogate-record",
        "names a record with half a character",
        "rejected: ",
        with_record("\udcff", ArrayRecord()),
    ),
    CatalogueRow(
        "escape-in-record",
        "names a record with what clears a terminal",
        "rejected: expected one ArrayRecord 'arrays', found 2 ('arrays', '\\x1b[2J\\n'",
        with_record("\x1b[2J\n", ArrayRecord()),
    ),
    CatalogueRow(
        "two-thousand-records",
        "sends 2,000 records more",
        "rejected: expected one MetricRecord, found 2001",
        with_content(
            lambda content: RecordDict(
                {**content, **{f"more-{i}": MetricRecord({"x": i}) for i in range(2_000)}}
            )
        ),
    ),
    CatalogueRow(
        "bytes-in-config",
        "adds 8 MiB of bytes in a config",
        "",
        with_record("junk", ConfigRecord({"junk": bytes(2**23)})),
    ),
    CatalogueRow(
        "config-for-arrays",
        "sends a config named arrays",
        "rejected: expected one ArrayRecord",
        with_record(ARRAYS, ConfigRecord({"x": b"1"})),
    ),
    CatalogueRow("500-MiB-context", "hoards 500 MiB in its context", "", _hoarding),
)
