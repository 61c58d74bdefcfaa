"""Metrics that cannot be, above all the number of examples, by which means are weighted."""

from __future__ import annotations

import math

from flwr.app import MetricRecord, RecordDict

from hqde_fl.simulations.audit.federation import CLIENTS, CULPRIT, count
from hqde_fl.simulations.audit.row import Replies, Row
from hqde_fl.simulations.audit.tamper import METRICS, answer, leaning, metric, record, without

COUNT = "num-examples"
OTHERS = sum(count(partition) for partition in range(CLIENTS) if partition != CULPRIT)
HONEST = {COUNT: 10, "train-loss": 0.5}


def _counting(value: float) -> Replies:
    """Weights that are a little off, and a claim of how many examples stand behind them."""

    def change(content: RecordDict) -> RecordDict:
        content.metric_records[METRICS][COUNT] = value
        return content

    return answer(lambda content: change(leaning(content)))


def _with(**more: float) -> MetricRecord:
    return MetricRecord({**HONEST, **{name.replace("_", "-"): each for name, each in more.items()}})


ROWS = (
    Row("count-of-0", "trained on 0 examples", "rejected: num-examples 0 is not", _counting(0)),
    Row(
        "count-of--999",
        "trained on -999 examples",
        "rejected: num-examples -999 is not in",
        _counting(-999),
    ),
    Row(
        "count-to-zero-sum",
        "makes the sum of all counts zero",
        "rejected: num-examples -151 is not in",
        _counting(-OTHERS),
    ),
    Row(
        "count-of-1e18",
        "trained on 1e18 examples",
        "rejected: num-examples 1e+18 is not in",
        _counting(1e18),
    ),
    Row(
        "count-of-2^63",
        "trained on 2^63 - 1 examples",
        "rejected: num-examples 9223372036854775807 is not in",
        _counting(2**63 - 1),
    ),
    Row(
        "count-of-nan",
        "trained on NaN examples",
        "rejected: num-examples nan",
        _counting(math.nan),
    ),
    Row(
        "count-of-infinity",
        "trained on infinitely many examples",
        "rejected: num-examples inf",
        _counting(math.inf),
    ),
    Row("tiny-count", "trained on 5e-324 examples", "", _counting(5e-324)),
    Row(
        "list-as-count",
        "counts its examples by a list",
        "rejected: metric 'num-examples' is a list",
        metric(COUNT, [1, 2]),
    ),
    Row(
        "empty-list-as-count",
        "counts by an empty list",
        "rejected: metric 'num-examples' is a list",
        metric(COUNT, []),
    ),
    Row(
        "list-as-metric",
        "sends a list for a number",
        "rejected: metric 'train-loss' is a list",
        metric("train-loss", [0.1]),
    ),
    Row(
        "long-list",
        "sends a list of 100,000 numbers",
        "rejected: metric 'more' is a list",
        metric("more", [0.1] * 10**5),
    ),
    Row(
        "no-count",
        "does not say how many examples",
        "rejected: metric 'num-examples' is missing",
        without(METRICS, COUNT),
    ),
    Row("missing-metric", "leaves the loss out", "", without(METRICS, "train-loss")),
    Row("extra-metric", "sends a metric more", "", record(METRICS, _with(more=1.0))),
    Row("nan-metric", "sends NaN for the loss", "", metric("train-loss", math.nan)),
    Row("infinite-metric", "sends infinity for the loss", "", metric("train-loss", math.inf)),
    Row(
        "a-megabyte-of-metrics",
        "sends 10,000 metrics with long names",
        "rejected: expected at most 64 metrics, found",
        record(
            METRICS, MetricRecord({**HONEST, **{f"metric-{i:093d}": 1.0 for i in range(10_000)}})
        ),
    ),
    Row(
        "long-metric-name",
        "names a metric with a megabyte",
        "rejected: ",
        metric("x" * 2**20, 1.0),
    ),
    Row("path-like-metric", "names a metric like a file", "", metric("../../../etc/passwd", 1.0)),
    Row(
        "escape-in-metric",
        "names a metric with what clears a terminal",
        "rejected: ",
        metric("\x1b[2J\x1b]0;owned\x07\n", 1.0),
    ),
    Row(
        "markup-in-metric",
        "names a metric with a script",
        "",
        metric("<script>alert(1)</script>", 1.0),
    ),
    Row("empty-metric-name", "names a metric nothing", "rejected: ", metric("", 1.0)),
)
