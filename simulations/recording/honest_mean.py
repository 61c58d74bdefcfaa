"""How far each round went from where the honest clients alone would have gone.

Only a simulation knows who is honest. ``HonestMean`` listens twice: to the replies of a round,
through a Grid around the run's own, and to the model that the round led to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import final

import torch
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from hqde_fl.clients.message_fields import is_training
from hqde_fl.protocol.records import from_record
from hqde_fl.protocol.screening import Accepted, Screening
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks.round_updates import RoundUpdates
from hqde_fl.simulations.engines.wrapped_grid import FaultsOf, WrappedGrid, with_nodes
from hqde_fl.strategies.callbacks import RoundRecord


@final
class HonestMean:
    """Measures rounds against the mean of their honest updates.

    It keeps one more copy of every update until the round is over.

    Parameters
    ----------
    faults : Callable[[int], Mapping[int, str]]
        (round) -> who is faulty in it, by partition id.
    screening : Screening
        What the server lets pass.
    """

    def __init__(self, faults: FaultsOf, screening: Screening) -> None:
        self._faults, self._screening = faults, screening
        self._wire: RoundUpdates | None = None
        self._updates: dict[int, Tensor] = {}

    def grid(self, grid: Grid) -> Grid:
        """The same grid, its replies overheard."""
        return _OverheardGrid(grid, self)

    def begin(self, message: Message) -> None:
        """A round's training messages are sent; this is one of them."""
        self._wire, self._updates = RoundUpdates.of(message, Seeds(0), self._screening), {}

    def hear(self, node: int, reply: Message) -> None:
        """A reply to one of them has come."""
        if self._wire is not None and not reply.has_error():
            read = self._wire.read(reply)
            if isinstance(read, Accepted):
                self._updates[node] = read.delta

    def __call__(self, record: RoundRecord, arrays: ArrayRecord) -> dict[str, float | None]:
        """What a line of ``rounds.jsonl`` says of it, once the round is over.

        Parameters
        ----------
        record : RoundRecord
            The round.
        arrays : ArrayRecord
            The model after it.

        Returns
        -------
        dict[str, float | None]
            ``distance`` of the model's step to the mean of the honest updates, their ``spread``
            (root mean square distance to that mean), and ``ratio``, the square of their quotient:
            what the kappa of an (f, kappa)-robust rule bounds.
        """
        wire, updates, self._wire, self._updates = self._wire, self._updates, None, {}
        faulty = self._faults(record.round)
        honest = [
            updates[client.node].double()
            for client in record.clients
            if client.partition not in faulty and client.node in updates
        ]
        if wire is None or not honest:
            return {"distance": None, "spread": None, "ratio": None}
        after, _ = wire.layout.flatten(from_record(arrays))
        step = after.double() - wire.model.double()
        mean = sum(honest[1:], start=honest[0].clone()) / len(honest)
        distance = float(torch.linalg.vector_norm(step - mean))
        squares = [float((each - mean).square().sum()) for each in honest]
        spread = math.sqrt(math.fsum(squares) / len(squares))
        ratio = (distance / spread) ** 2 if spread > 0 else None
        return {"distance": distance, "spread": spread, "ratio": ratio}


class _OverheardGrid(WrappedGrid):
    """A Grid whose training replies somebody hears; all else passes untouched."""

    def __init__(self, grid: Grid, listener: HonestMean) -> None:
        super().__init__(grid)
        self._listener = listener

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        replies = self._grid.send_and_receive(sent, timeout=timeout)
        training = [message for message in sent if is_training(message)]
        if not training:
            return replies
        self._listener.begin(training[0])
        return self._heard(training, replies)

    def _heard(self, sent: list[Message], replies: Iterable[Message]) -> Iterator[Message]:
        for node, reply in with_nodes(sent, replies):
            if node is not None:
                self._listener.hear(node, reply)
            yield reply
