"""A Grid that replaces the updates in the replies of colluding attackers.

Attackers who know the honest updates exist in a simulation only. ``AttackGrid`` stands between
the Strategy and another Grid: it passes the honest replies to training messages on, and once all
have arrived it replaces the arrays in the attackers' replies by those of the attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.clients.faults import PartitionChoice
from hqde_fl.clients.message_fields import is_training, server_round
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.protocol.members import member_name, requested_members
from hqde_fl.protocol.no_data import has_no_data
from hqde_fl.protocol.partial_work import confirmed_work, requested_work
from hqde_fl.protocol.reply_matching import with_nodes
from hqde_fl.protocol.screening import Accepted, Screening
from hqde_fl.protocol.wrapped_grid import PartitionAwareGrid
from hqde_fl.rules import Aggregator, Mean
from hqde_fl.rules.results import State
from hqde_fl.rules.round_context import RoundContext
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks import Attack, AttackerKnowledge, Memory, attack_name
from hqde_fl.simulations.attacks.round_updates import RoundUpdates, SentModelOf, sent_model_of
from hqde_fl.strategies.round.partial_work import scaled
from hqde_fl.terminal_text import describe_error
from hqde_fl.updates.received_updates import received_columns

KnownElsewhere = Callable[[int], dict[int, Accepted]]
"""(member) -> honest updates by their clients."""

Defence = Callable[[int], tuple[Aggregator, State]]
"""(member) -> the rule in use and its current state for this member."""


@final
class AttackGrid(PartitionAwareGrid):
    """A Grid in which some clients collude.

    The attackers train honestly. Their replies keep their metrics (such as num-examples), and error
    replies stay. If the server requested packed updates, the attackers know the honest updates as
    the server decodes them and pack their own. In an ensemble they attack each member separately:
    attackers assigned to a member know its honest updates. Messages other than training, rounds
    without attackers, ``push_messages`` and ``pull_messages`` pass unchanged; Strategies use
    ``send_and_receive``.

    Parameters
    ----------
    grid : Grid
        The Grid that reaches the clients. If it knows the partitions or keeps contexts, so does
        this one.
    attack : Attack
        The attack that the chosen clients carry out.
    chosen : PartitionChoice
        The attackers' partition ids, or a function (round) -> partition ids. If ``grid`` does not
        know the partitions, they are read from replies to ``query.identity``; before the server has
        requested these there are no attackers.
    defence : Defence, optional
        Returns the rule and its state, for attacks adapted to the rule in use.
    sent_model : SentModelOf, optional
        Returns the model that clients were sent, with its layout, as the Strategy knows it. If not
        given, the attackers read it in the round's first message, which must hold it in full.
    screening : Screening, optional
        The server's screening: attackers ignore honest clients that it rejects.
    seed : int, default=0
        The run's seed, for codecs that round at random.
    elsewhere : KnownElsewhere, optional
        Returns honest updates of clients behind other Grids, which the attackers use in a round in
        which none of this Grid's clients is honest.

    Raises
    ------
    ConfigError
        If the attack needs the rule and no ``defence`` is given.
    RunError
        From ``send_and_receive``, if the attack's own code fails; the message names the attack.
    """

    def __init__(
        self,
        grid: Grid,
        attack: Attack,
        chosen: PartitionChoice,
        *,
        defence: Defence | None = None,
        sent_model: SentModelOf | None = None,
        screening: Screening | None = None,
        seed: int = 0,
        elsewhere: KnownElsewhere | None = None,
    ) -> None:
        if attack.needs_rule and defence is None:
            raise ConfigError(f"{attack} needs a defence that tells the rule in use, found none")
        super().__init__(grid)
        self._attack = attack
        self._screening, self._seeds = screening or Screening(), Seeds(seed)
        self._chosen = chosen if callable(chosen) else frozenset(chosen)
        self._defence: Defence = defence if defence is not None else lambda member: (Mean(), {})
        self._sent_model = sent_model
        self._elsewhere: KnownElsewhere = elsewhere or (lambda member: {})
        self.memory: Memory = {}
        """The attackers' state, which checkpoints contain and resumed runs restore."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies, the attackers' last.

        The attackers' replies follow once the wrapped Grid has no further replies, because all have
        arrived or ``timeout`` seconds have passed. Their error replies are not held back.
        """
        sent = list(messages)
        attackers = self._attackers(sent)
        replies = self._grid.send_and_receive(sent, timeout=timeout)
        if attackers:
            return self._with_attack(sent, attackers, replies)
        return self._note_identities(sent, replies)

    def _attackers(self, sent: Sequence[Message]) -> dict[int, int]:
        """Return node -> partition id of the attackers among the receivers of training messages."""
        training = [message for message in sent if is_training(message)]
        if not training:
            return {}
        chosen, attackers = self._chosen, {}
        now = frozenset(chosen(server_round(training[0])) if callable(chosen) else chosen)
        for message in training:
            node = message.metadata.dst_node_id
            partition = self._partition(node)
            if partition is not None and partition in now:
                attackers[node] = partition
        return attackers

    def _with_attack(
        self, sent: Sequence[Message], attackers: dict[int, int], replies: Iterable[Message]
    ) -> Iterator[Message]:
        """Yield honest and error replies as they arrive, then the attackers' by partition id."""
        training = {m.metadata.dst_node_id: m for m in sent if is_training(m)}
        updates = self._round_updates(training.values())
        honest: dict[int | None, dict[int, Accepted]] = {member: {} for member in updates}
        excluded = dict.fromkeys(updates, 0)
        waiting: list[tuple[int, tuple[int | None, ...], Message]] = []
        requested: dict[int, float] = {}
        for node, reply in with_nodes(sent, replies):
            if node is None:  # it answers none of the messages: the server will reject it
                yield reply
                continue
            members = _members(training[node]) if node in training else ()
            partition = self._partition(node)
            client = node if partition is None else partition
            if node in training:
                requested[client] = requested_work(training[node])
            if node in attackers and not reply.has_error():
                waiting.append((attackers[node], members, reply))
                continue
            outcomes = {} if reply.has_error() else {m: updates[m].read(reply) for m in members}
            accepted = {m: read for m, read in outcomes.items() if isinstance(read, Accepted)}
            for member in members:
                if len(accepted) == len(members):
                    honest[member][client] = accepted[member]
                elif not has_no_data(reply):
                    excluded[member] += 1
            yield reply
        waiting.sort(key=lambda entry: entry[0])
        for member, member_updates in updates.items():
            holders = [index for index, (_, members, _) in enumerate(waiting) if member in members]
            forged = self._forge(
                member_updates,
                honest[member] or self._elsewhere(member or 0),
                [(waiting[index][0], waiting[index][2]) for index in holders],
                excluded[member],
                requested,
            )
            for index, reply in zip(holders, forged, strict=True):
                waiting[index] = (*waiting[index][:2], reply)
        yield from (reply for _, _, reply in waiting)

    def _round_updates(self, training: Iterable[Message]) -> dict[int | None, RoundUpdates]:
        """Return member -> the reader and writer of its updates, for all members in the messages.

        The key of a single model is None.
        """
        updates: dict[int | None, RoundUpdates] = {}
        for message in training:
            for member in _members(message):
                if member not in updates:
                    given = self._sent_model
                    sent = given(member or 0) if given else sent_model_of(message, member)
                    updates[member] = RoundUpdates.of(
                        message, sent, self._seeds, self._screening, member
                    )
        return dict(sorted(updates.items(), key=lambda pair: pair[0] or 0))

    def _forge(
        self,
        updates: RoundUpdates,
        honest: dict[int, Accepted],
        waiting: Sequence[tuple[int, Message]],
        excluded: int,
        requested: Mapping[int, float],
    ) -> Sequence[Message]:
        """Return the attackers' replies with the attack's updates of one model.

        ``waiting`` holds the attackers' partition ids and honest replies, which are returned as
        they are if no honest update is known; ``excluded`` counts the clients whose replies the
        server rejects; ``requested`` holds the part of its training that each client was asked for.
        The attack sees updates for all of the training, as the rule does but for a common factor.
        Its new state is kept in ``memory``.
        """
        if not honest or not waiting:
            return [reply for _, reply in waiting]
        claims = {client: updates.read(reply) for client, reply in waiting}
        counted = honest | {k: read for k, read in claims.items() if isinstance(read, Accepted)}
        clients = sorted(honest)
        work = {
            k: confirmed_work(read.metrics, requested.get(k, 1.0)) for k, read in counted.items()
        }
        rule, state = self._defence(updates.member or 0)
        name = None if updates.member is None else member_name(updates.member)
        knowledge = AttackerKnowledge(
            honest=tuple(clients),
            attackers=tuple(client for client, _ in waiting),
            num_examples={client: read.num_examples for client, read in counted.items()},
            excluded=excluded,
            model=updates.model,
            rule=rule,
            state=state,
            memory=self.memory if name is None else self.memory.get(name, {}),
            round=updates.round,
            member=updates.member or 0,
            seeds=self._seeds,
            context=RoundContext(layers=updates.layers, weights=updates.model),
        )
        rows = received_columns([honest[client].update for client in clients])
        if any(work[client] < 1 for client in clients):
            parts = torch.tensor([work[client] for client in clients], dtype=torch.float64)
            rows = scaled(rows, 1 / parts)
        try:
            learnt = self._attack.learn(rows, knowledge)
            crafted = self._attack.craft(rows, len(waiting), replace(knowledge, memory=learnt))
            deltas = torch.atleast_2d(crafted).expand(len(waiting), rows.shape[1])
        except Exception as error:
            attack, what = attack_name(self._attack), describe_error(error)
            raise RunError(f"attack {attack!r} failed in round {updates.round}: {what}") from error
        self.memory = learnt if name is None else {**self.memory, name: learnt}
        return [
            updates.write(
                reply, client, delta if work.get(client, 1.0) == 1 else delta * work[client]
            )
            for (client, reply), delta in zip(waiting, deltas, strict=True)
        ]


def _members(message: Message) -> tuple[int | None, ...]:
    """Return the members in a training message; (None,) if it holds a single model."""
    members = requested_members(message)
    return (None,) if members is None else members
