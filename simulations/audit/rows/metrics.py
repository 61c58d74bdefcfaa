"""Hostile replies with impossible metrics, above all the example count that weights means."""

from __future__ import annotations

import math

from flwr.app import MetricRecord, RecordDict

from hqde_fl.simulations.audit.catalogue_row import CatalogueRow, Replies
from hqde_fl.simulations.audit.honest_clients import CLIENTS, CULPRIT, example_count
from hqde_fl.simulations.audit.message_changes import (
    METRICS,
    shift_slightly,
    with_content,
    with_metric,
    with_record,
    without,
)

COUNT = "num-examples"
OTHERS = sum(example_count(partition) for partition in range(CLIENTS) if partition != CULPRIT)
HONEST = {COUNT: 10, "train-loss": 0.5}


def _counting(value: float) -> Replies:
    """Return a builder of a reply with slightly shifted weights and a false number of examples."""

    def change(content: RecordDict) -> RecordDict:
        content.metric_records[METRICS][COUNT] = value
        return content

    return with_content(lambda content: change(shift_slightly(content)))


def _with(**more: float) -> MetricRecord:
    return MetricRecord({**HONEST, **{key.replace("_", "-"): value for key, value in more.items()}})


ROWS = (
    CatalogueRow(
        "count-of-0", "trained on 0 examples", "rejected: num-examples 0 is not", _counting(0)
    ),
    CatalogueRow(
        "count-of--999",
        "trained on -999 examples",
        "rejected: num-examples -999 is not in",
        _counting(-999),
    ),
    CatalogueRow(
        "count-to-zero-sum",
        "makes the sum of all counts zero",
        "rejected: num-examples -151 is not in",
        _counting(-OTHERS),
    ),
    CatalogueRow(
        "count-of-1e18",
        "trained on 1e18 examples",
        "rejected: num-examples 1e+18 is not in",
        _counting(1e18),
    ),
    CatalogueRow(
        "count-of-2^63",
        "trained on 2^63 - 1 examples",
        "rejected: num-examples 9223372036854775807 is not in",
        _counting(2**63 - 1),
    ),
    CatalogueRow(
        "count-of-nan",
        "trained on NaN examples",
        "rejected: num-examples nan",
        _counting(math.nan),
    ),
    CatalogueRow(
        "count-of-infinity",
        "trained on infinitely many examples",
        "rejected: num-examples inf",
        _counting(math.inf),
    ),
    CatalogueRow("tiny-count", "trained on 5e-324 examples", "", _counting(5e-324)),
    CatalogueRow(
        "list-as-count",
        "counts its examples by a list",
        "rejected: metric 'num-examples' is a list",
        with_metric(COUNT, [1, 2]),
    ),
    CatalogueRow(
        "empty-list-as-count",
        "counts by an empty list",
        "rejected: metric 'num-examples' is a list",
        with_metric(COUNT, []),
    ),
    CatalogueRow(
        "list-as-metric",
        "sends a list for a number",
        "rejected: metric 'train-loss' is a list",
        with_metric("train-loss", [0.1]),
    ),
    CatalogueRow(
        "long-list",
        "sends a list of 100,000 numbers",
        "rejected: metric 'more' is a list",
        with_metric("more", [0.1] * 10**5),
    ),
    CatalogueRow(
        "no-count",
        "does not say how many examples",
        "rejected: metric 'num-examples' is missing",
        without(METRICS, COUNT),
    ),
    CatalogueRow("missing-metric", "leaves the loss out", "", without(METRICS, "train-loss")),
    CatalogueRow("extra-metric", "sends a metric more", "", with_record(METRICS, _with(more=1.0))),
    CatalogueRow("nan-metric", "sends NaN for the loss", "", with_metric("train-loss", math.nan)),
    CatalogueRow(
        "infinite-metric", "sends infinity for the loss", "", with_metric("train-loss", math.inf)
    ),
    CatalogueRow(
        "a-megabyte-of-metrics",
        "sends 10,000 metrics with long names",
        "rejected: expected at most 64 metrics, found",
        with_record(
            METRICS, MetricRecord({**HONEST, **{f"metric-{i:093d}": 1.0 for i in range(10_000)}})
        ),
    ),
    CatalogueRow(
        "long-metric-name",
        "names a metric with a megabyte",
        "rejected: ",
        with_metric("x" * 2**20, 1.0),
    ),
    CatalogueRow(
        "path-like-metric",
        "names a metric like a file",
        "",
        with_metric("../../../etc/passwd", 1.0),
    ),
    CatalogueRow(
        "escape-in-metric",
        "names a metric with what clears a terminal",
        "rejected: ",
        with_metric("\x1b[2J\x1b]0;owned\x07\n", 1.0),
    ),
    CatalogueRow(
        "markup-in-metric",
        "names a metric with a script",
        "",
        with_metric("<script>alert(1)</script>", 1.0),
    ),
    CatalogueRow(
        "look-alike-metric",
        "names a metric accuracy with a Cyrillic letter",
        "",
        with_metric("\N{CYRILLIC SMALL LETTER A}ccuracy", 1.0),
    ),
    CatalogueRow(
        "formula-as-metric",
        "names a metric like a formula of a spreadsheet",
        "",
        with_metric("=1+1", 1.0),
    ),
    CatalogueRow("empty-metric-name", "names a metric nothing", "rejected: ", with_metric("", 1.0)),
)
