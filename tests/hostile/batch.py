"""One federation with a hostile client per row of the catalogue, beside three honest clients."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from hqde_fl.rules import Mean
from hqde_fl.simulations.audit import HOSTILE, AnswerContext, CatalogueRow, UploadedReply
from hqde_fl.simulations.audit.catalogue import GROUPS
from hqde_fl.simulations.audit.honest_clients import deviation, honest_content
from hqde_fl.simulations.audit.trial import TOLERANCE
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Participation, Reporting

HONEST = 3


def rejected(*groups: str) -> list[CatalogueRow]:
    """Return the rows of some groups that a strategy must reject or fail under any rule."""
    rows = [row for group in groups for row in GROUPS[group]]
    return [row for row in rows if row.expected.startswith(("rejected", "failed"))]


def batch_app(names: Sequence[str]) -> ClientApp:
    """Return an app whose client p follows the p-th row; clients beyond the rows are honest."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        content = honest_content(message, partition)
        if partition >= len(names):
            return Message(content, reply_to=message)
        (reply,) = HOSTILE[names[partition]].replies(
            AnswerContext(message, content, context, None, 0)
        )
        assert not isinstance(reply, UploadedReply)
        return reply

    return app


class Rounds(Callback):
    """A callback that keeps all records and the last model."""

    def __init__(self) -> None:
        self.rounds: list[RoundRecord] = []
        self.arrays = ArrayRecord()

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        self.rounds.append(record)
        self.arrays = arrays


def strategy(rounds: Rounds, *, identify: bool = True) -> HQDEStrategy:
    """Return a strategy that screens replies but has no robust rule."""
    return HQDEStrategy(
        Mean(),
        participation=Participation(fraction_evaluate=0.0, identify=identify),
        reporting=Reporting([rounds]),
    )


def check(rounds: Rounds, rows: Sequence[CatalogueRow], *, alternative: str = "rejected") -> None:
    """Assert that every culprit was named in every round, and that the model is the honest mean.

    ``alternative`` is another beginning of a reason, for engines that stop a reply before the
    strategy does.
    """
    for record in rounds.rounds[1:]:
        assert record.kept == HONEST
        for client in record.clients:
            assert client.partition is not None
            if client.partition >= len(rows):
                assert client.kept
                continue
            row, reason = rows[client.partition], client.reason or ""
            assert reason.startswith((row.expected, alternative)), (row.name, reason)
            assert client.influence == 0
    assert deviation(rounds.arrays, len(rounds.rounds) - 1) < TOLERANCE
