"""Record what becomes of each client in a training round."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

from flwr.app import Message, RecordDict

from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.message_size import ROLES_AND_OTHER, bytes_by_role
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord
from hqde_fl.strategies.outcomes import (
    FAILED,
    FILTERED,
    LATE,
    MISSING,
    REJECTED,
    SKIPPED,
    outcome_of,
)
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.round.aggregation import MergedModel
from hqde_fl.strategies.round.outgoing import Assignments
from hqde_fl.updates.layout import Layout

MAX_LOGGED_NODES = 20
"""Nodes that one line of the log names."""

_OWN_CODE_FAILED = re.compile(rf"{FAILED}: client \d+: ")
"""The beginning of a reason that names the client and a part of its own task."""


class RoundLog:
    """The records of a round's clients. A client is late until its reply arrives.

    Parameters
    ----------
    server_round : int
        The round.
    messages : Sequence[Message]
        The messages, one for each client; those with the same content share it.
    roster : Roster
        Knows the nodes' partition ids.
    assignments : Assignments
        Node -> the members that it trains; empty where there is one model.
    layouts : Sequence[Layout]
        Layout of each member, with the roles that bytes are counted by.
    """

    def __init__(
        self,
        server_round: int,
        messages: Sequence[Message],
        roster: Roster,
        assignments: Assignments,
        layouts: Sequence[Layout],
    ) -> None:
        self.round = server_round
        self._assignments, self._layouts = assignments, layouts
        contents = {id(message.content): message.content for message in messages}
        sizes = {key: bytes_by_role(content, layouts) for key, content in contents.items()}
        self._down = _summed(sizes[id(message.content)] for message in messages)
        self._up: dict[int, Mapping[str, int]] = {}
        totals = {key: sum(size.values()) for key, size in sizes.items()}
        # the fields of the clients' records, which change several times in a round
        self._clients: dict[int, dict[str, Any]] = {
            (node := message.metadata.dst_node_id): self._first_fields(
                node, roster.partition(node), LATE, totals[id(message.content)]
            )
            for message in messages
        }

    def _first_fields(
        self, node: int, partition: int | None, reason: str, bytes_down: int
    ) -> dict[str, Any]:
        """Return the fields of a client's record before anything is known of its reply."""
        return {
            "round": self.round,
            "node": node,
            "partition": partition,
            "kept": False,
            "influence": 0.0,
            "reason": reason,
            "bytes_down": bytes_down,
            "bytes_up": 0,
            "seconds": None,
            "members": self._assignments.get(node, ()),
        }

    def add_absent(self, node: int, partition: int | None, reason: str) -> None:
        """Add a client that was asked to take part, but got no training message."""
        self._clients[node] = self._first_fields(node, partition, reason, 0)

    def add_traffic(self, node: int, down: int, up: int) -> None:
        """Count bytes of other messages to a client, and of its answers."""
        fields = self._clients[node]
        self.update(node, bytes_down=fields["bytes_down"] + down, bytes_up=fields["bytes_up"] + up)
        self._down["other"] += down
        own = self._up.get(node, {})
        self._up[node] = {**own, "other": own.get("other", 0) + up}

    def has_reply(self, node: int) -> bool:
        """Return whether a reply of this client has been recorded already."""
        return bool(self._clients[node]["reason"] != LATE)

    def client(self, node: int) -> ClientRecord:
        """Return the record of a client so far."""
        return ClientRecord(**self._clients[node])

    def record_reply(self, node: int, content: RecordDict) -> None:
        """Record the size of a client's reply; from now on the client is not late."""
        self.record_sizes(node, self.sizes(content))

    def sizes(self, content: RecordDict) -> Mapping[str, int]:
        """Return the bytes of a reply's content by the role of what they carry."""
        return bytes_by_role(content, self._layouts)

    def record_sizes(self, node: int, sizes: Mapping[str, int]) -> None:
        """Record the bytes of a client's reply by role; from now on the client is not late."""
        self._up[node] = sizes
        self.update(node, bytes_up=sum(sizes.values()), reason=None)

    def update(self, node: int, **changes: Any) -> None:
        """Change fields of a client's record, given by their names in ``ClientRecord``."""
        self._clients[node].update(changes)

    def assigned_members(self, node: int) -> tuple[int, ...]:
        """Return the members that a client trains; (0,) where there is one model."""
        return self._assignments.get(node, (0,))

    def assigned_clients(self, member: int) -> list[int]:
        """Return the ids of the nodes that train a member."""
        return [node for node in self._clients if member in self.assigned_members(node)]

    def count(self, outcome: str, member: int = 0) -> int:
        """Return the number of clients of a member with an outcome.

        Outcomes are ``filtered``, ``rejected``, ``failed``, ``skipped``, ``missing`` and ``late``.
        """
        nodes = self.assigned_clients(member)
        return sum(outcome_of(self._clients[node]["reason"]) == outcome for node in nodes)

    def skipped(self) -> list[int]:
        """Return the ids of the nodes that reported to have no data."""
        clients = self._clients.items()
        return [node for node, fields in clients if outcome_of(fields["reason"]) == SKIPPED]

    def record_influence(
        self, merged: Sequence[MergedModel], buckets: Mapping[int, Sequence[int]] | None = None
    ) -> set[int]:
        """Record the clients' influence, and which of them were kept or filtered by the rule.

        Parameters
        ----------
        merged : Sequence[MergedModel]
            Outcome for each member.
        buckets : Mapping[int, Sequence[int]], optional
            With secure aggregation, where the outcomes are of buckets: bucket -> its nodes, among
            which its influence is divided evenly.

        Returns
        -------
        set[int]
            Ids of the nodes with an update that the rule was given and did not filter, for at least
            one member.
        """
        moved_models = sum(model.is_moved for model in merged)
        by_node: dict[int, list[tuple[int, float, bool]]] = {}
        for member, model in enumerate(merged):
            if model.outcome is None:
                continue
            influences, filtered = model.outcome.influence.tolist(), model.outcome.filtered.tolist()
            for node, influence, out in zip(model.nodes, influences, filtered, strict=True):
                mean = influence / moved_models if model.is_moved else 0.0
                nodes = (node,) if buckets is None else buckets[node]
                for one in nodes:
                    by_node.setdefault(one, []).append((member, mean / len(nodes), out))
        passed = set()
        for node, entries in by_node.items():
            filtered_from = tuple(member for member, _, out in entries if out)
            wholly = len(filtered_from) == len(entries)
            self.update(
                node,
                kept=any(merged[member].is_moved for member, _, out in entries if not out),
                influence=sum(influence for _, influence, _ in entries),
                reason=FILTERED if wholly else None,
                filtered_from=filtered_from if self._assignments else (),
            )
            if not wholly:
                passed.add(node)
        return passed

    def close(self, metrics: Mapping[str, float], **facts: Any) -> RoundRecord:
        """Return the round's record, and log which clients were not kept.

        Parameters
        ----------
        metrics : Mapping[str, float]
            Means of the clients' training metrics.
        **facts : Any
            Result of the aggregation, by the names of ``RoundRecord``'s fields.
        """
        clients = tuple(map(self.client, self._clients))
        self._log_exclusions(clients)
        outcomes = [outcome_of(client.reason) for client in clients]
        return RoundRecord(
            round=self.round,
            clients_train=metrics,
            asked=len(clients),
            kept=sum(client.kept for client in clients),
            filtered=outcomes.count(FILTERED),
            rejected=outcomes.count(REJECTED),
            failed=outcomes.count(FAILED),
            late=outcomes.count(LATE),
            missing=outcomes.count(MISSING),
            skipped=outcomes.count(SKIPPED),
            feedback_lost=sum(client.feedback_lost for client in clients),
            bytes_down=sum(client.bytes_down for client in clients),
            bytes_up=sum(client.bytes_up for client in clients),
            bytes_down_by_role=self._down,
            bytes_up_by_role=_summed(self._up.values()),
            clients=clients,
            **facts,
        )

    def _log_exclusions(self, clients: Sequence[ClientRecord]) -> None:
        """Log the clients with a reason for not being kept, for runs without callbacks."""
        for client in clients:
            if client.reason and ":" in client.reason:
                log(INFO, "round %d: node %d %s", self.round, client.node, client.reason)
        own = [c.reason for c in clients if c.reason and _OWN_CODE_FAILED.match(c.reason)]
        if own:  # the client's own code is at fault, which goes on until someone mends it
            line = "round %d: %d clients %s" if len(own) > 1 else "round %d: %d client %s"
            log(WARNING, line, self.round, len(own), own[0])
        for outcome in (FILTERED, LATE):
            nodes = [client.node for client in clients if client.reason == outcome]
            if not nodes:
                continue
            names = ", ".join(map(str, nodes[:MAX_LOGGED_NODES]))
            names += ", ..." * (len(nodes) > MAX_LOGGED_NODES)
            line = "round %d: %s: %d clients (nodes %s)"
            log(INFO, line, self.round, outcome, len(nodes), names)


def _summed(sizes: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of bytes by role; zeros for no messages."""
    total = Counter(dict.fromkeys(ROLES_AND_OTHER, 0))
    for of_message in sizes:
        total.update(of_message)
    return dict(total)
