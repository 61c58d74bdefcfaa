"""Flower's strategies and hqde-fl's on the same messages, and Flower's arithmetic alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from torch import Tensor

from hqde_fl import rules as ours
from hqde_fl.protocol.flower_internals import TaskIdentity, set_message_id
from hqde_fl.strategies.hqde import HQDEStrategy

Run = Callable[[], object]


def flower_runs(matrix: Tensor) -> dict[str, dict[str, Callable[[], Run]]]:
    """Return rule -> name -> preparation of a run on the rows of ``matrix``, one row per client.

    ``flower`` and ``whole`` run Flower's and our ``aggregate_train``; ``flower-bare``, which not
    all have, is Flower's arithmetic alone.
    """
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    logging.getLogger("flwr").setLevel(logging.ERROR)
    n, d = matrix.shape
    f = n // 5
    rows = matrix.numpy()
    model = ArrayRecord({"w": Array(np.zeros(d, np.float32))})
    arrays = [Array(row) for row in rows]

    class Nodes:
        def get_node_ids(self) -> Iterable[int]:
            return range(1, n + 1)

        def partition_of(self, node: int) -> int:
            return node - 1

    def contents() -> list[RecordDict]:
        return [
            RecordDict(
                {"arrays": ArrayRecord({"w": array}), "metrics": MetricRecord({"num-examples": 10})}
            )
            for array in arrays
        ]

    def theirs(strategy: Any) -> Run:
        messages = [Message(RecordDict(), node, "train") for node in range(1, n + 1)]
        pairs = zip(contents(), messages, strict=True)
        replies = [Message(content, reply_to=message) for content, message in pairs]
        return lambda: strategy.aggregate_train(1, replies)

    def mine(rule: ours.Aggregator) -> Run:
        strategy = HQDEStrategy(rule)
        messages = strategy.configure_train(1, model, ConfigRecord(), Nodes())  # type: ignore[arg-type]
        order = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        for key, message in enumerate(order):  # as a grid does when it sends them
            set_message_id(message, str(key))
        replies = [Message(c, reply_to=m) for c, m in zip(contents(), order, strict=True)]

        def run() -> object:
            merged = strategy.aggregate_train(1, replies)
            assert merged[0] is not None
            return merged

        return run

    def mean_of(selected: list[RecordDict]) -> ArrayRecord:
        return aggregate_arrayrecords(selected, "num-examples")

    def stacked() -> np.ndarray[Any, Any]:
        return np.stack([array.numpy() for array in arrays])

    pairs: dict[str, tuple[Callable[[], Any], ours.Aggregator, Run | None]] = {
        "Mean": (flower.FedAvg, ours.Mean(weighted=True), lambda: stacked().mean(axis=0)),
        "Median": (flower.FedMedian, ours.Median(), lambda: np.median(stacked(), axis=0)),
        "TrimmedMean": (
            lambda: flower.FedTrimmedAvg(beta=0.2),
            ours.TrimmedMean(f),
            lambda: trim_mean(stacked(), 0.2),
        ),
        "Krum": (
            lambda: flower.Krum(num_malicious_nodes=f),
            ours.Krum(f),
            lambda: mean_of(select_multikrum(contents(), f, 1)),
        ),
        "MultiKrum": (
            lambda: flower.MultiKrum(num_malicious_nodes=f, num_nodes_to_select=n - f),
            ours.MultiKrum(f),
            lambda: mean_of(select_multikrum(contents(), f, n - f)),
        ),
        "Bulyan": (lambda: flower.Bulyan(num_malicious_nodes=f), ours.Bulyan(f), None),
    }
    if n < ours.Bulyan(f).minimum():
        del pairs["Bulyan"]
    runs: dict[str, dict[str, Callable[[], Run]]] = {}
    for name, (make, rule, bare) in pairs.items():
        runs[name] = {
            "flower": lambda make=make: theirs(make()),  # type: ignore[misc]
            "whole": lambda rule=rule: mine(rule),  # type: ignore[misc]
        }
        if bare is not None:
            runs[name]["flower-bare"] = lambda bare=bare: bare  # type: ignore[misc]
    return runs
