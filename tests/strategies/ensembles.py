"""A federation that trains members by hand, with one client that can misbehave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from hqde_fl.protocol.members import (
    TAG,
    TAGS,
    add_member_prefix,
    message_config,
    requested_members,
    select_member,
    uncopied_record,
)
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.hqde import HQDEStrategy
from tests.strategies.federation import HOSTILE

D = 600
Tampering = Callable[[RecordDict], RecordDict]


def start(members: int) -> dict[str, torch.Tensor]:
    """Return an initial model of members far from each other, with an integer buffer."""
    state: dict[str, torch.Tensor] = {}
    for member in range(members):
        generator = torch.Generator().manual_seed(member)
        weights = {"w": 10 * torch.randn(D, generator=generator), "steps": torch.tensor(0)}
        state |= add_member_prefix(member, weights)
    return state


def step(partition: int, member: int) -> torch.Tensor:
    """Return the update (D,) that a client makes to a member."""
    return 1 + 0.1 * torch.randn(
        D, generator=torch.Generator().manual_seed(97 * partition + member)
    )


class Clients(InlineGrid):
    """A Grid whose clients add their ``step`` to each member that is assigned to them."""

    def __init__(
        self, partitions: int = 6, tamper: Tampering | None = None, mods: Sequence[Mod] = ()
    ) -> None:
        self.seen: list[tuple[int, int, ArrayRecord]] = []
        app = ClientApp(mods=list(mods))

        @app.train()
        def train(message: Message, context: Context) -> Message:
            partition = int(context.node_config["partition-id"])
            config, record = message_config(message), message.content.array_records["arrays"]
            self.seen.append((int(config["server-round"]), partition, record))  # type: ignore[arg-type]
            members = requested_members(message)
            assert members is not None
            arrays, tags = ArrayRecord(), ConfigRecord()
            for member in members:
                state = from_record(uncopied_record(select_member(member, record)))
                trained = {"w": state["w"] + step(partition, member), "steps": state["steps"] + 1}
                arrays.update(add_member_prefix(member, to_record(trained)))
                tags.update(add_member_prefix(member, {TAG: select_member(member, config)[TAG]}))
            metrics = MetricRecord({"num-examples": 10, "train-loss": 0.5})
            content = RecordDict({"arrays": arrays, "metrics": metrics, TAGS: tags})
            if tamper is not None and partition == HOSTILE:
                content = tamper(content)
            return Message(content, reply_to=message)

        super().__init__(app, partitions, {}, seed=1)


def run(strategy: HQDEStrategy, clients: Clients, rounds: int = 1) -> list[dict[str, torch.Tensor]]:
    """Return the members after some rounds, as state dicts."""
    members = strategy.settings.ensemble.members
    state = from_record(strategy.start(clients, to_record(start(members)), rounds).arrays)
    return [select_member(member, state) for member in range(members)]
