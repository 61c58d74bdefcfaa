"""Measure the distance of each round's step from the mean of the honest updates.

Only a simulation knows which clients are honest. ``HonestMean`` reads the replies of a round
through a Grid around the run's own, and gets the model after the round as a ``Measure``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import final

import torch
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from hqde_fl.clients.message_fields import is_training
from hqde_fl.protocol.records import from_record
from hqde_fl.protocol.reply_matching import with_nodes
from hqde_fl.protocol.screening import Accepted, Screening
from hqde_fl.protocol.wrapped_grid import WrappedGrid
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks.round_updates import RoundUpdates
from hqde_fl.simulations.engines.fault_error_grid import FaultsOf
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.state import ModelState


@final
class HonestMean:
    """A ``Measure`` that compares each round's step with the mean of the honest updates.

    It keeps one more copy of every update until the round is over.

    Parameters
    ----------
    faults : Callable[[int], Mapping[int, str]]
        Takes a round, returns the fault of each faulty client by partition id.
    model : Callable[[], ModelState]
        Returns the Strategy's model, with what it sent to clients in the present round.
    screening : Screening
        The server's screening; a reply that it rejects is left out.
    """

    def __init__(
        self, faults: FaultsOf, model: Callable[[], ModelState], screening: Screening
    ) -> None:
        self._faults, self._model, self._screening = faults, model, screening
        self._start: ModelState | None = None
        self._round: RoundUpdates | None = None
        self._updates: dict[int, Tensor] = {}

    def grid(self, grid: Grid) -> Grid:
        """Return a Grid that passes everything to the given one and reads the training replies."""
        return _ReplyReadingGrid(grid, self)

    def begin_round(self, message: Message) -> None:
        """Forget all updates and begin the round of a training message."""
        self._start = self._model()
        self._round = RoundUpdates.of(message, self._start.sent, Seeds(0), self._screening)
        self._updates = {}

    def read_reply(self, node: int, reply: Message) -> None:
        """Keep the update in a node's reply to a training message, unless screening rejects it."""
        if self._round is not None and not reply.has_error():
            screened = self._round.read(reply)
            if isinstance(screened, Accepted):
                self._updates[node] = screened.delta

    def __call__(self, record: RoundRecord, arrays: ArrayRecord) -> dict[str, float | None]:
        """Return the entry of ``rounds.jsonl`` for a round, and forget the round's updates.

        Parameters
        ----------
        record : RoundRecord
            The record of the round.
        arrays : ArrayRecord
            The model after it.

        Returns
        -------
        dict[str, float | None]
            ``distance`` of the model's step to the mean of the honest updates, ``spread`` of those
            updates (root mean square distance to their mean), and ``ratio``, the square of
            distance / spread, which the kappa of an (f, kappa)-robust rule bounds. All are None
            without an honest update, and ``ratio`` is None if the spread is 0.
        """
        start, updates, self._updates = self._start, self._updates, {}
        self._start = self._round = None
        faulty = self._faults(record.round)
        honest = [
            updates[client.node].double()
            for client in record.clients
            if client.partition not in faulty and client.node in updates
        ]
        if start is None or not honest:
            return {"distance": None, "spread": None, "ratio": None}
        after, _ = start.layout.flatten(from_record(arrays))
        step = after.double() - start.flat.double()
        mean = sum(honest[1:], start=honest[0].clone()) / len(honest)
        distance = float(torch.linalg.vector_norm(step - mean))
        squares = [float((update - mean).square().sum()) for update in honest]
        spread = math.sqrt(math.fsum(squares) / len(squares))
        ratio = (distance / spread) ** 2 if spread > 0 else None
        return {"distance": distance, "spread": spread, "ratio": ratio}


class _ReplyReadingGrid(WrappedGrid):
    """A Grid that shows every training reply to an ``HonestMean`` and changes nothing."""

    def __init__(self, grid: Grid, honest_mean: HonestMean) -> None:
        super().__init__(grid)
        self._honest_mean = honest_mean

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        replies = self._grid.send_and_receive(sent, timeout=timeout)
        training = [message for message in sent if is_training(message)]
        if not training:
            return replies
        self._honest_mean.begin_round(training[0])
        return self._read(training, replies)

    def _read(self, sent: list[Message], replies: Iterable[Message]) -> Iterator[Message]:
        for node, reply in with_nodes(sent, replies):
            if node is not None:
                self._honest_mean.read_reply(node, reply)
            yield reply
