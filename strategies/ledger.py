"""Who was asked to train this round, and what became of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from logging import INFO, WARNING
from typing import Any

from flwr.app import Message
from flwr.common.logger import log

from hqde_fl.rules import Aggregate
from hqde_fl.wire import message_bytes
from strategies.asked import Asked
from strategies.callbacks import ClientRecord, RoundRecord
from strategies.roster import Roster

MOST_NAMED = 20
"""Nodes in one line of the log."""


class Ledger:
    """The clients of one training round. Until a client answers, it is late.

    Parameters
    ----------
    server_round : int
        The round.
    sent : Sequence[Message]
        The messages, one for each client; those with the same content share it.
    roster : Roster
        Knows the nodes' partition ids.
    """

    def __init__(self, server_round: int, sent: Sequence[Message], roster: Roster) -> None:
        self.round = server_round
        self.asked = Asked(sent)
        contents = {id(message.content): message.content for message in sent}
        sizes = {key: message_bytes(content) for key, content in contents.items()}
        size = {m.metadata.dst_node_id: sizes[id(m.content)] for m in sent}
        self._clients = {
            node: ClientRecord(
                round=server_round,
                node=node,
                partition=roster.partition(node),
                kept=False,
                influence=0.0,
                reason="late",
                bytes_down=size[node],
                bytes_up=0,
                seconds=None,
            )
            for node in (message.metadata.dst_node_id for message in sent)
        }

    def answered(self, node: int) -> bool:
        """Whether something has come from this client already."""
        return self._clients[node].reason != "late"

    def write(self, node: int, **changes: Any) -> None:
        """Change a client's record."""
        self._clients[node] = replace(self._clients[node], **changes)

    def count(self, outcome: str) -> int:
        """How many clients ended so: ``filtered``, ``rejected``, ``failed`` or ``late``."""
        return sum((c.reason or "").split(":")[0] == outcome for c in self._clients.values())

    def settle(self, nodes: Sequence[int], outcome: Aggregate) -> list[int]:
        """Write down what the rule made of the good replies; the nodes that it kept."""
        kept = []
        for node, share, out in zip(
            nodes, outcome.influence.tolist(), outcome.rejected.tolist(), strict=True
        ):
            self.write(node, kept=not out, influence=share, reason="filtered" if out else None)
            if not out:
                kept.append(node)
        return kept

    def close(
        self, metrics: Mapping[str, float], diagnostics: Mapping[str, Any], note: str | None
    ) -> RoundRecord:
        """The round's record. With a note the model was kept, so no client had influence."""
        clients = tuple(self._clients.values())
        if note is not None:
            clients = tuple(replace(client, kept=False, influence=0.0) for client in clients)
        self._name(clients)
        return RoundRecord(
            round=self.round,
            clients_train=metrics,
            asked=len(clients),
            kept=sum(client.kept for client in clients),
            filtered=self.count("filtered"),
            rejected=self.count("rejected"),
            failed=self.count("failed"),
            late=self.count("late"),
            bytes_down=sum(client.bytes_down for client in clients),
            bytes_up=sum(client.bytes_up for client in clients),
            diagnostics=diagnostics,
            note=note,
            clients=clients,
        )

    def _name(self, clients: Sequence[ClientRecord]) -> None:
        """Log who was not kept, and why, for whoever has no callback."""
        for client in clients:
            if client.reason and ":" in client.reason:
                log(WARNING, "round %d: node %d %s", self.round, client.node, client.reason)
        for outcome in ("filtered", "late"):
            nodes = [client.node for client in clients if client.reason == outcome]
            if nodes:
                names = ", ".join(map(str, nodes[:MOST_NAMED])) + ", ..." * (
                    len(nodes) > MOST_NAMED
                )
                log(
                    INFO,
                    "round %d: %s: %d clients (nodes %s)",
                    self.round,
                    outcome,
                    len(nodes),
                    names,
                )
