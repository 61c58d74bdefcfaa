"""Who was asked to train this round, and what became of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from logging import INFO
from typing import Any

from flwr.app import Message

from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.rules import Aggregate
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord
from hqde_fl.strategies.outcomes import FAILED, FILTERED, LATE, REJECTED, SKIPPED, outcome_of
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.round.reply_matching import Asked

MOST_NAMED = 20
"""Nodes in one line of the log."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a rule made of the good replies for one model.

    Parameters
    ----------
    nodes : Sequence[int]
        Whose replies they are, in the order of the outcome's rows.
    outcome : Aggregate
        The rule's.
    moved : bool
        Whether the model was moved by it.
    """

    nodes: Sequence[int]
    outcome: Aggregate
    moved: bool


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
    shares : Mapping[int, tuple[int, ...]], optional
        Node -> the members that it was given; the only model there is if not given.
    """

    def __init__(
        self,
        server_round: int,
        sent: Sequence[Message],
        roster: Roster,
        shares: Mapping[int, tuple[int, ...]] | None = None,
    ) -> None:
        self.round = server_round
        self._shares = shares or {}
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
                reason=LATE,
                bytes_down=size[node],
                bytes_up=0,
                seconds=None,
                members=self._shares.get(node, ()),
            )
            for node in (message.metadata.dst_node_id for message in sent)
        }

    def answered(self, node: int) -> bool:
        """Whether something has come from this client already."""
        return self._clients[node].reason != LATE

    def write(self, node: int, **changes: Any) -> None:
        """Change a client's record."""
        self._clients[node] = replace(self._clients[node], **changes)

    def count(self, outcome: str, member: int = 0) -> int:
        """Return the number of clients of a member with an outcome.

        Outcomes are ``filtered``, ``rejected``, ``failed``, ``skipped`` and ``late``.
        """
        clients = (c for node, c in self._clients.items() if member in self.share(node))
        return sum(outcome_of(client.reason) == outcome for client in clients)

    def share(self, node: int) -> tuple[int, ...]:
        """The members that a client was given."""
        return self._shares.get(node, (0,))

    def given(self, member: int) -> int:
        """How many clients were given a member."""
        return sum(member in self.share(node) for node in self._clients)

    def settle(self, merged: Mapping[int, Verdict]) -> set[int]:
        """Write down what became of the good replies; the nodes that the rule kept.

        Parameters
        ----------
        merged : Mapping[int, Verdict]
            Member -> the rule's verdict on its good replies, where the rule was asked.
        """
        moved = sum(verdict.moved for verdict in merged.values())
        seen: dict[int, list[tuple[int, float, bool]]] = {}
        for member, verdict in merged.items():
            shares, out = verdict.outcome.influence.tolist(), verdict.outcome.rejected.tolist()
            for node, share, rejected in zip(verdict.nodes, shares, out, strict=True):
                influence = share / moved if verdict.moved else 0.0
                seen.setdefault(node, []).append((member, influence, rejected))
        kept = set()
        for node, verdicts in seen.items():
            out_of = tuple(member for member, _, rejected in verdicts if rejected)
            filtered = len(out_of) == len(verdicts)
            self.write(
                node,
                kept=any(merged[member].moved for member, _, out in verdicts if not out),
                influence=sum(influence for _, influence, _ in verdicts),
                reason=FILTERED if filtered else None,
                filtered_from=out_of if self._shares else (),
            )
            if not filtered:
                kept.add(node)
        return kept

    def skipped(self) -> list[int]:
        """Return the nodes that said that they have no data."""
        return [
            node for node, client in self._clients.items() if outcome_of(client.reason) == SKIPPED
        ]

    def close(self, metrics: Mapping[str, float], **facts: Any) -> RoundRecord:
        """Return the round's record.

        Parameters
        ----------
        metrics : Mapping[str, float]
            Means of what the clients kept reported.
        **facts : Any
            What the rule made of the round, by the names of ``RoundRecord``'s fields.
        """
        clients = tuple(self._clients.values())
        self._name(clients)
        return RoundRecord(
            round=self.round,
            clients_train=metrics,
            asked=len(clients),
            kept=sum(client.kept for client in clients),
            filtered=sum(outcome_of(client.reason) == FILTERED for client in clients),
            rejected=sum(outcome_of(client.reason) == REJECTED for client in clients),
            failed=sum(outcome_of(client.reason) == FAILED for client in clients),
            late=sum(outcome_of(client.reason) == LATE for client in clients),
            skipped=sum(outcome_of(client.reason) == SKIPPED for client in clients),
            feedback_lost=sum(client.feedback_lost for client in clients),
            bytes_down=sum(client.bytes_down for client in clients),
            bytes_up=sum(client.bytes_up for client in clients),
            clients=clients,
            **facts,
        )

    def _name(self, clients: Sequence[ClientRecord]) -> None:
        """Log who was not kept, and why, for whoever has no callback."""
        for client in clients:
            if client.reason and ":" in client.reason:
                log(INFO, "round %d: node %d %s", self.round, client.node, client.reason)
        for outcome in (FILTERED, LATE):
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
