"""What an audit has to survive."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg

from hqde_fl.simulations.audit.federation import CLIENTS


class Picky(FedAvg):
    """Hangs or dies when a reply is not as it should be."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self._how = how

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        found = list(replies)
        if sum(reply.has_content() for reply in found) == CLIENTS:
            return super().aggregate_train(server_round, found)
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
