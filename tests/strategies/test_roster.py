"""A node is known by one partition id, whatever nodes claim."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.protocol.flower_internals import NodeInfo
from hqde_fl.protocol.records import to_record
from hqde_fl.rules import Mean
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.settings import Participation
from tests.strategies.federation import MODEL, honest


class ClaimingNodes(InlineGrid):
    """A Grid with nodes on other hosts, which claim any partition id."""

    partition_of = None  # type: ignore[assignment]  # it does not know better

    def __init__(self, claims: Mapping[int, object], app: ClientApp | None = None) -> None:
        answering = ClientApp()

        @answering.query("identity")
        def identity(message: Message, context: Context) -> Message:
            claim = claims[int(context.node_config["partition-id"])]
            record = ConfigRecord() if claim is None else ConfigRecord({"partition-id": claim})
            return Message(RecordDict({"identity": record}), reply_to=message)

        super().__init__(app or answering, len(claims), {}, seed=1)
        self.connected = list(self._nodes)

    def get_nodes(self):  # type: ignore[no-untyped-def]
        return [NodeInfo(node_id=node, last_activated_at="now") for node in self.connected]


def test_nodes_are_ordered_by_the_partition_ids_that_they_claim() -> None:
    grid, roster = ClaimingNodes({0: 2, 1: 0, 2: 1}), Roster()
    nodes = list(grid.connected)
    assert roster.wait(grid, 3, 1.0, identify=1.0) == [nodes[1], nodes[2], nodes[0]]
    assert [roster.partition(node) for node in nodes] == [2, 0, 1]
    assert [roster.identity(node) for node in nodes] == [2, 0, 1]


def test_of_two_nodes_that_claim_one_partition_id_only_one_gets_it() -> None:
    grid, roster = ClaimingNodes({0: 5, 1: 5, 2: 3}), Roster()
    first, second, third = grid.connected
    ordered = roster.wait(grid, 3, 1.0, identify=1.0)
    assert sorted([roster.partition(first), roster.partition(second)], key=str) == [5, None]
    nameless = first if roster.partition(first) is None else second
    assert roster.identity(nameless) == nameless
    assert ordered[0] == third
    assert ordered[-1] == nameless


def test_a_node_that_connects_later_cannot_take_over_a_partition_id() -> None:
    grid, roster = ClaimingNodes({0: 5, 1: 6, 2: 5}), Roster()
    early, other, late = grid.connected
    grid.connected = [early, other]
    roster.wait(grid, 2, 1.0, identify=1.0)
    grid.connected = [late, early, other]
    assert roster.wait(grid, 3, 1.0, identify=1.0) == [early, other, late]
    assert [roster.partition(node) for node in (early, late)] == [5, None]


@pytest.mark.parametrize("claim", [None, True, 1.0, "1", [1]])
def test_what_is_no_integer_is_no_partition_id(claim: object) -> None:
    grid, roster = ClaimingNodes({0: claim, 1: 0}), Roster()
    nameless, named = grid.connected
    assert roster.wait(grid, 2, 1.0, identify=1.0) == [named, nameless]
    assert roster.partition(nameless) is None


class StockClients(ClaimingNodes):
    """Clients of a stock Flower app: they train, and answer no other message."""

    def __init__(self) -> None:
        app = ClientApp()
        app.train()(lambda m, context: Message(honest(m, context), reply_to=m))
        super().__init__(dict.fromkeys(range(4)), app)
        self.kinds: list[str] = []

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        sent = list(messages)
        self.kinds += [message.metadata.message_type for message in sent]
        return super().send_and_receive(sent, timeout=timeout)


def test_stock_clients_are_sent_nothing_but_training_messages() -> None:
    clients = StockClients()
    HQDEStrategy(Mean(), participation=Participation(fraction_evaluate=0.0)).start(
        clients, to_record(MODEL), 2
    )
    assert clients.kinds == ["train"] * 8
