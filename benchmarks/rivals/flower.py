"""Flower's own strategies and ours on the same messages, and Flower's bare arithmetic."""

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
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from hqde_fl import rules as ours
from hqde_fl.strategies.hqde import HQDEStrategy

Run = Callable[[], object]


def flower_runs(matrix: Tensor) -> dict[str, dict[str, Callable[[], Run]]]:
    """Rule -> Flower's and our whole ``aggregate_train``, and Flower's bare arithmetic."""
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
        asked = [Message(RecordDict(), node, "train") for node in range(1, n + 1)]
        pairs = zip(contents(), asked, strict=True)
        replies = [Message(content, reply_to=question) for content, question in pairs]
        return lambda: strategy.aggregate_train(1, replies)

    def mine(rule: ours.Aggregator) -> Run:
        strategy = HQDEStrategy(rule)
        asked = strategy.configure_train(1, model, ConfigRecord(), Nodes())  # type: ignore[arg-type]
        order = sorted(asked, key=lambda message: message.metadata.dst_node_id)
        for key, question in enumerate(order):  # as a grid does that sends them
            question.metadata.__dict__["_message_id"] = str(key)
        replies = [Message(c, reply_to=q) for c, q in zip(contents(), order, strict=True)]

        def run() -> object:
            merged = strategy.aggregate_train(1, replies)
            assert merged[0] is not None
            return merged

        return run

    def merged(chosen: list[RecordDict]) -> ArrayRecord:
        return aggregate_arrayrecords(chosen, "num-examples")

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
            lambda: merged(select_multikrum(contents(), f, 1)),
        ),
        "MultiKrum": (
            lambda: flower.MultiKrum(num_malicious_nodes=f, num_nodes_to_select=n - f),
            ours.MultiKrum(f),
            lambda: merged(select_multikrum(contents(), f, n - f)),
        ),
        "Bulyan": (lambda: flower.Bulyan(num_malicious_nodes=f), ours.Bulyan(f), None),
    }
    if n < ours.Bulyan(f).minimum():
        del pairs["Bulyan"]
    found: dict[str, dict[str, Callable[[], Run]]] = {}
    for name, (make, rule, bare) in pairs.items():
        found[name] = {
            "flower": lambda make=make: theirs(make()),  # type: ignore[misc]
            "whole": lambda rule=rule: mine(rule),  # type: ignore[misc]
        }
        if bare is not None:
            found[name]["flower-bare"] = lambda bare=bare: bare  # type: ignore[misc]
    return found
