"""Colluding attackers: a Grid that rewrites what some of the clients reply.

Attackers who see the honest updates exist in a simulation only. ``AdversaryGrid`` stands between
the Strategy and any other Grid: it lets the honest replies to a training message pass, and when all
are in it replaces the arrays of the attackers' replies by what the attack makes of them. The
Strategy sees messages as they always are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import final

import torch
from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.clients.faults import PartitionChoice
from hqde_fl.clients.faults.fault_errors import describe_error
from hqde_fl.clients.message_fields import is_training, server_round
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.protocol.members import member_name, requested_members
from hqde_fl.protocol.no_data import has_no_data
from hqde_fl.protocol.screening import Accepted, Screening
from hqde_fl.rules import Aggregator, Mean
from hqde_fl.rules.results import State
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks import Attack, AttackerKnowledge, Memory, attack_name
from hqde_fl.simulations.attacks.round_updates import RoundUpdates
from hqde_fl.simulations.engines.wrapped_grid import PartitionAwareGrid, with_nodes
from hqde_fl.updates.received_updates import received_columns

Defence = Callable[[int], tuple[Aggregator, State]]
"""(member) -> the rule in use and what it remembers of this member, as of now."""


@final
class AdversaryGrid(PartitionAwareGrid):
    """A Grid some of whose clients collude.

    The attackers train honestly; their own replies are used for the metrics that they claim
    (num-examples and the like), and whatever went wrong with them stays wrong. Where the server
    asked for packed updates, the attackers see the honest ones as it will, decoded, and pack their
    own. In an ensemble they attack member by member: those who were given a member know the honest
    updates of it. Messages that are not for training, and rounds in which nobody is chosen, pass
    untouched. So do ``push_messages`` and ``pull_messages``, which have no round: Strategies use
    ``send_and_receive``.

    Parameters
    ----------
    grid : Grid
        Runs the clients. If it knows the partitions or keeps contexts, so does this.
    attack : Attack
        What they do.
    chosen : PartitionChoice
        The attackers' partition ids, or (round) -> partition ids. Where the grid does not know who
        has which partition, the clients' answers to ``query.identity`` on their way to the server
        tell; as long as nobody has asked for them there are no attackers.
    defence : Defence, optional
        Tells the rule and its state, for attacks that are made for the rule in use.
    screening : Screening, optional
        What the server lets pass: attackers do not reckon with a client that it drops.
    seed : int, default=0
        The run's seed, for codecs that round at random.

    Raises
    ------
    ConfigError
        If the attack needs to know the rule and nobody tells.
    RunError
        From ``send_and_receive``, if the attack's own code fails: it names the attack.
    """

    def __init__(
        self,
        grid: Grid,
        attack: Attack,
        chosen: PartitionChoice,
        *,
        defence: Defence | None = None,
        screening: Screening | None = None,
        seed: int = 0,
    ) -> None:
        if attack.needs_rule and defence is None:
            raise ConfigError(f"{attack} needs a defence that tells the rule in use, found none")
        super().__init__(grid)
        self._attack = attack
        self._screening, self._seeds = screening or Screening(), Seeds(seed)
        self._chosen = chosen if callable(chosen) else frozenset(chosen)
        self._defence: Defence = defence if defence is not None else lambda member: (Mean(), {})
        self.memory: Memory = {}
        """What the attackers remember: part of a checkpoint, and to be set on resuming."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and receive the replies, the attackers' last.

        The attackers wait for the honest replies until the wrapped grid has no more of them, be it
        because all are there or because ``timeout`` seconds are over.
        """
        sent = list(messages)
        attackers = self._attackers(sent)
        replies = self._grid.send_and_receive(sent, timeout=timeout)
        if attackers:
            return self._rewritten(sent, attackers, replies)
        return self._note_identities(sent, replies)

    def _attackers(self, sent: Sequence[Message]) -> dict[int, int]:
        """Node -> partition id of the attackers among those who are asked to train."""
        training = [message for message in sent if is_training(message)]
        if not training:
            return {}
        chosen, found = self._chosen, {}
        now = frozenset(chosen(server_round(training[0])) if callable(chosen) else chosen)
        for message in training:
            node = message.metadata.dst_node_id
            partition = self._partition(node)
            if partition is not None and partition in now:
                found[node] = partition
        return found

    def _rewritten(
        self, sent: Sequence[Message], attackers: dict[int, int], replies: Iterable[Message]
    ) -> Iterator[Message]:
        """The honest replies as they come, then the attackers'."""
        training = {m.metadata.dst_node_id: m for m in sent if is_training(m)}
        wires = self._wires(training.values())
        honest: dict[int | None, dict[int, Accepted]] = {member: {} for member in wires}
        excluded = dict.fromkeys(wires, 0)
        waiting: list[tuple[int, tuple[int | None, ...], Message]] = []
        for node, reply in with_nodes(sent, replies):
            if node is None:  # it answers none of the messages: the server will reject it
                yield reply
                continue
            share = _share(training[node]) if node in training else ()
            if node in attackers and not reply.has_error():
                waiting.append((attackers[node], share, reply))
                continue
            read = {} if reply.has_error() else {m: wires[m].read(reply) for m in share}
            good = {m: each for m, each in read.items() if isinstance(each, Accepted)}
            partition = self._partition(node)
            for member in share:
                if len(good) == len(share):
                    honest[member][node if partition is None else partition] = good[member]
                elif not has_no_data(reply):
                    excluded[member] += 1
            yield reply
        waiting.sort(key=lambda each: each[0])
        for member, wire in wires.items():
            holders = [place for place, (_, share, _) in enumerate(waiting) if member in share]
            forged = self._forged(
                wire,
                honest[member],
                [(waiting[place][0], waiting[place][2]) for place in holders],
                excluded[member],
            )
            for place, reply in zip(holders, forged, strict=True):
                waiting[place] = (*waiting[place][:2], reply)
        yield from (reply for _, _, reply in waiting)

    def _wires(self, training: Iterable[Message]) -> dict[int | None, RoundUpdates]:
        """How the updates of each member travel this round; of the only model under None."""
        wires: dict[int | None, RoundUpdates] = {}
        for message in training:
            for member in _share(message):
                if member not in wires:
                    wires[member] = RoundUpdates.of(message, self._seeds, self._screening, member)
        return dict(sorted(wires.items(), key=lambda pair: pair[0] or 0))

    def _forged(
        self,
        wire: RoundUpdates,
        honest: dict[int, Accepted],
        waiting: Sequence[tuple[int, Message]],
        excluded: int,
    ) -> Sequence[Message]:
        """The attackers' replies with what the attack makes of the honest updates of a model."""
        if not honest or not waiting:
            return [reply for _, reply in waiting]
        claims = {client: wire.read(reply) for client, reply in waiting}
        counted = honest | {k: read for k, read in claims.items() if isinstance(read, Accepted)}
        listed = sorted(honest)
        rule, state = self._defence(wire.member or 0)
        own = None if wire.member is None else member_name(wire.member)
        scene = AttackerKnowledge(
            honest=tuple(listed),
            attackers=tuple(client for client, _ in waiting),
            num_examples={client: read.num_examples for client, read in counted.items()},
            excluded=excluded,
            model=wire.model,
            rule=rule,
            state=state,
            memory=self.memory if own is None else self.memory.get(own, {}),
        )
        rows = received_columns([honest[client].update for client in listed])
        try:
            learnt = self._attack.learn(rows, scene)
            crafted = self._attack.craft(rows, len(waiting), replace(scene, memory=learnt))
            deltas = torch.atleast_2d(crafted).expand(len(waiting), rows.shape[1])
        except Exception as error:
            name = attack_name(self._attack)
            what = describe_error(error)
            raise RunError(f"attack {name!r} failed in round {wire.round}: {what}") from error
        self.memory = learnt if own is None else {**self.memory, own: learnt}
        return [
            wire.write(reply, client, delta)
            for (client, reply), delta in zip(waiting, deltas, strict=True)
        ]


def _share(message: Message) -> tuple[int | None, ...]:
    """The members that a training message is about; None for the only model there is."""
    members = requested_members(message)
    return (None,) if members is None else members
