"""Strategies that an audit must survive."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg

from hqde_fl.simulations.audit.honest_clients import CLIENTS


class Picky(FedAvg):
    """A strategy that hangs or aborts its process unless all clients reply with a content."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self._how = how

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        received = list(replies)
        if sum(reply.has_content() for reply in received) == CLIENTS:
            return super().aggregate_train(server_round, received)
        if self._how == "dies":
            os.abort()
        time.sleep(3600)
        return None, None


def dies() -> Picky:
    return Picky("dies")


def hangs() -> Picky:
    return Picky("hangs")


def raises() -> FedAvg:
    raise ValueError("not today")


instance = FedAvg()
number = 3
