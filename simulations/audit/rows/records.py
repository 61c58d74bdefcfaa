"""Replies made of other records than one of arrays and one of metrics."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from hqde_fl.simulations.audit.row import Case, Reply, Row
from hqde_fl.simulations.audit.tamper import ARRAYS, METRICS, answer, record, renamed, without

CONTEXT_BYTES = 500 * 2**20
"""What a client can leave in its own context."""


def _hoarding(case: Case) -> list[Reply]:
    case.context.state["junk"] = ConfigRecord({"junk": bytes(CONTEXT_BYTES)})
    return answer(lambda content: content)(case)  # type: ignore[return-value]


def _alias(old: str, new: str) -> Row:
    def change(content: RecordDict) -> RecordDict:
        content[new] = content[old]
        return content

    kind = "ArrayRecord" if old == ARRAYS else "MetricRecord"
    return Row(
        f"{old}-twice",
        f"sends its {old} under two names",
        f"rejected: expected one {kind}",
        answer(change),
    )


def _swapped(content: RecordDict) -> RecordDict:
    return RecordDict({ARRAYS: content[METRICS], METRICS: content[ARRAYS]})


ROWS = (
    Row("nothing", "sends no records", "rejected: expected one", answer(lambda _: RecordDict())),
    Row("no-arrays", "sends metrics only", "rejected: expected one ArrayRecord", without(ARRAYS)),
    Row("no-metrics", "sends arrays only", "rejected: expected one MetricRecord", without(METRICS)),
    Row("empty-arrays", "sends no array", "rejected: missing array", record(ARRAYS, ArrayRecord())),
    Row(
        "empty-metrics",
        "sends no metric",
        "rejected: metric 'num-examples' is missing",
        record(METRICS, MetricRecord()),
    ),
    Row(
        "two-array-records",
        "sends arrays twice, the second time others",
        "rejected: expected one ArrayRecord 'arrays', found 2",
        record("again", ArrayRecord([np.ones((2, 3), np.float32)])),
    ),
    _alias(ARRAYS, "again"),
    _alias(METRICS, "again"),
    Row(
        "another-record-name",
        "calls its arrays weights",
        "rejected: expected one ArrayRecord 'arrays', found 1 ('weights')",
        renamed(ARRAYS, "weights"),
    ),
    Row("another-metrics-name", "calls its metrics otherwise", "", renamed(METRICS, "scores")),
    Row("swapped-records", "swaps the names of its records", "rejected: ", answer(_swapped)),
    Row(
        "surrogate-record",
        "names a record with half a character",
        "rejected: ",
        record("\udcff", ArrayRecord()),
    ),
    Row(
        "escape-in-record",
        "names a record with what clears a terminal",
        "rejected: expected one ArrayRecord 'arrays', found 2 ('arrays', '\\x1b[2J\\n'",
        record("\x1b[2J\n", ArrayRecord()),
    ),
    Row(
        "two-thousand-records",
        "sends 2,000 records more",
        "rejected: expected one MetricRecord, found 2001",
        answer(
            lambda content: RecordDict(
                {**content, **{f"more-{i}": MetricRecord({"x": i}) for i in range(2_000)}}
            )
        ),
    ),
    Row(
        "bytes-in-config",
        "adds 8 MiB of bytes in a config",
        "",
        record("junk", ConfigRecord({"junk": bytes(2**23)})),
    ),
    Row(
        "config-for-arrays",
        "sends a config named arrays",
        "rejected: expected one ArrayRecord",
        record(ARRAYS, ConfigRecord({"x": b"1"})),
    ),
    Row("500-MiB-context", "hoards 500 MiB in its context", "", _hoarding),
)
