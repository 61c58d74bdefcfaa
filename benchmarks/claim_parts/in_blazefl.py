"""Run blazefl's own case in blazefl, with threads.

``python -m benchmarks.claim_parts.in_blazefl ROUNDS``

The threads are as many as the cores; batches are slices of tensors, as they are for the others. The
last line printed is the test accuracy after the last round.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from blazefl.contrib import FedAvgBaseServerHandler, FedAvgThreadPoolClientTrainer
from torch import Tensor

from benchmarks.claim_parts.cases import CASES, examples, new_model

NAME = "blazefl"
CASE = CASES[NAME]


class Models:
    """Selects the model of the case."""

    def select_model(self, model_name: str) -> Any:
        """Return a new model."""
        return new_model(model_name)


class Batches:
    """A client's examples, in batches of another order each time.

    Parameters
    ----------
    client : int
        The client, or -1 for the test set, which is not shuffled.
    size : int
        The size of a batch.
    generator : torch.Generator, optional
        Draws the orders.
    """

    def __init__(self, client: int, size: int, generator: torch.Generator | None) -> None:
        self._data, self._size = examples(NAME, client), size
        self._generator = None if client < 0 else generator

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self._data
        order = torch.arange(len(x))
        if self._generator is not None:
            order = torch.randperm(len(x), generator=self._generator)
        for chosen in order.split(self._size):
            yield x[chosen], y[chosen]


class Data:
    """The data sets of all clients, as blazefl asks for them."""

    def get_dataloader(
        self, type_: str, cid: int | None, batch_size: int, generator: Any = None
    ) -> Batches:
        """Return the batches of a client, or those of the test set."""
        return Batches(-1 if cid is None else cid, batch_size, generator)


def main(rounds: int) -> None:
    """Train for some rounds, and print the test accuracy after the last."""
    torch.set_num_threads(1)
    data: Any = Data()
    models: Any = Models()
    server: Any = FedAvgBaseServerHandler(
        *(models, NAME, data, rounds, CASE.clients, 1.0, "cpu"), batch_size=CASE.batch, seed=1
    )
    trainer: Any = FedAvgThreadPoolClientTrainer(
        *(models, NAME, data, "cpu", CASE.clients, CASE.epochs, CASE.batch, CASE.lr),
        seed=1,
        num_parallels=len(os.sched_getaffinity(0)),
    )
    accuracy = 0.0
    while not server.if_stop():
        trainer.local_process(server.downlink_package(), server.sample_clients())
        for package in trainer.uplink_package():
            server.load(package)
        accuracy = server.get_summary()["server_acc"]
    print(accuracy)


if __name__ == "__main__":
    main(int(sys.argv[1]))
