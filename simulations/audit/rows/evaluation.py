"""Hostile replies to evaluation messages."""

from __future__ import annotations

import math

from flwr.app import Error, Message, MetricRecord, RecordDict

from hqde_fl.simulations.audit.catalogue_row import AnswerContext, CatalogueRow, Replies, Reply
from hqde_fl.simulations.audit.message_changes import (
    METRICS,
    with_content,
    with_envelope,
    with_metric,
    with_record,
    without,
)

COUNT = "num-examples"


def _error(case: AnswerContext) -> list[Reply]:
    return [Message(Error(2, "no"), reply_to=case.message)]


def _twice(case: AnswerContext) -> list[Reply]:
    return [Message(case.content, reply_to=case.message)] * 2


def _row(name: str, behaviour: str, expected: str, replies: Replies) -> CatalogueRow:
    return CatalogueRow(f"evaluation-{name}", behaviour, expected, replies, request="evaluate")


ROWS = (
    _row("error", "fails to evaluate", "failed: no", _error),
    _row("silent", "does not report", "", lambda case: []),
    _row(
        "nothing",
        "reports no records",
        "rejected: expected one",
        with_content(lambda _: RecordDict()),
    ),
    _row(
        "no-count",
        "reports no count",
        "rejected: metric 'num-examples' is missing",
        without(METRICS, COUNT),
    ),
    _row(
        "count-of-0",
        "evaluated on 0 examples",
        "rejected: num-examples 0 is not",
        with_metric(COUNT, 0),
    ),
    _row(
        "count-of--999",
        "evaluated on -999 examples",
        "rejected: num-examples -999",
        with_metric(COUNT, -999),
    ),
    _row(
        "count-of-1e18",
        "evaluated on 1e18 examples and lies",
        "rejected: num-examples 1e+18",
        with_record(METRICS, MetricRecord({COUNT: 1e18, "eval-loss": -1.0})),
    ),
    _row("nan", "reports NaN", "", with_metric("eval-loss", math.nan)),
    _row("infinity", "reports infinity", "", with_metric("eval-loss", math.inf)),
    _row(
        "list",
        "reports a list",
        "rejected: metric 'eval-loss' is a list",
        with_metric("eval-loss", [1.0]),
    ),
    _row(
        "list-as-count",
        "counts by a list",
        "rejected: metric 'num-examples' is a list",
        with_metric(COUNT, [1]),
    ),
    _row("missing", "leaves the loss out", "", without(METRICS, "eval-loss")),
    _row("extra", "reports a metric more", "", with_metric("more", 1.0)),
    _row(
        "many",
        "reports 1,000 metrics",
        "rejected: expected at most 64",
        with_record(METRICS, MetricRecord({f"m{i}": 1.0 for i in range(1_000)})),
    ),
    _row("twice", "reports twice", "rejected: duplicate", _twice),
    _row(
        "stranger",
        "reports as a node that was not asked",
        "rejected: signed by node 12345",
        with_envelope(src_node_id=12345),
    ),
    _row(
        "another-run",
        "reports to another run",
        "rejected: belongs to run 987654321",
        with_envelope(run_id=987654321),
    ),
)
