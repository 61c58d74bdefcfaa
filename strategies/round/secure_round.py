"""A round of secure aggregation on the server: buckets, keys, masked updates and their sums.

The server asks for keys and encrypted shares before the training, forwards them, and asks for the
shares that take the masks off once the masked updates are there. A client that does not answer a
question, or answers it wrongly, has dropped out; it is recorded with the reason. A bucket in which
too few are left is void.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from logging import WARNING
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.privacy.secure_sums.bucket import Bucket
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.members import records_of
from hqde_fl.protocol.npy import MalformedError
from hqde_fl.protocol.omitted_entries import omitted_entries
from hqde_fl.protocol.screening import NO_UPDATE, Accepted, Rejected
from hqde_fl.protocol.secure_messages import (
    KEYS,
    SECURE,
    SHARES,
    UNMASK,
    by_client,
    keys_record,
    read_commitment,
    read_keys,
    read_masked,
    with_clients,
)
from hqde_fl.protocol.secure_vectors import ClientVector
from hqde_fl.protocol.spent_epsilon import EPSILON
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.outcomes import FAILED, LATE
from hqde_fl.strategies.round.secure_buckets import BucketMean, DealtBucket
from hqde_fl.strategies.round.secure_questions import SecureQuestions
from hqde_fl.strategies.state import ModelState
from hqde_fl.terminal_text import printable


@final
@dataclass(eq=False)
class SecureRound:
    """The server's end of secure aggregation in one round.

    Parameters
    ----------
    settings : SecureAggregation
        The settings.
    number : int
        The round.
    grid : Grid
        Delivers the questions.
    seeds : Seeds
        The run's seeds; they deal the buckets.
    arrays_key : str
        Name of a reply's one ``ArrayRecord``.

    Attributes
    ----------
    absent : dict[int, str]
        Node without a training message -> the reason.
    questions : SecureQuestions
        Knows who has dropped out and why, without the others of a void bucket.
    """

    settings: SecureAggregation
    number: int
    grid: Grid
    seeds: Seeds
    arrays_key: str
    absent: dict[int, str] = field(default_factory=dict)
    _buckets: list[DealtBucket] = field(default_factory=list)
    _places: dict[int, tuple[DealtBucket, int]] = field(default_factory=dict)
    _models: Sequence[ModelState] = ()

    def __post_init__(self) -> None:
        deadline = self.settings.question_deadline
        self.questions = SecureQuestions(self.number, self.grid, deadline)

    def exchange(
        self,
        nodes: Sequence[int],
        assignments: Mapping[int, tuple[int, ...]],
        models: Sequence[ModelState],
    ) -> list[int]:
        """Deal the nodes into buckets, exchange keys and shares; return the nodes that may train.

        Parameters
        ----------
        nodes : Sequence[int]
            The round's nodes, in the order of their clients.
        assignments : Mapping[int, tuple[int, ...]]
            Node -> the members that it trains.
        models : Sequence[ModelState]
            The members as they are sent.
        """
        self._models = models
        self._deal(nodes, assignments)
        dealt = list(self._places)
        asked = {node: self._names(node) for node in dealt}
        self.questions.ask(KEYS, asked, self._add_keys)
        left = self._left("advertised keys", lambda sums: sums.keys)
        lists = []
        for bucket in self._buckets:
            bucket.vector = replace(bucket.vector, clients=len(bucket.sums.keys))
            threshold = {"threshold": bucket.sums.threshold}
            lists.append(ConfigRecord({**keys_record(bucket.sums.keys), **threshold}))
        asked = {node: lists[self._places[node][0].place] for node in left}
        self.questions.ask(SHARES, asked, self._add_shares)
        left = self._left("shared their secrets", lambda sums: sums.shares)
        return [node for node in nodes if node in left]

    def add_shares(self, messages: Iterable[Message]) -> None:
        """Add to the training messages what the others of each client's bucket encrypted for it."""
        for message in messages:
            bucket, number = self._places[message.metadata.dst_node_id]
            lists = with_clients("senders", "shares", bucket.sums.shares_for(number))
            record = ConfigRecord({**lists, "rotation": self._rotation, "bits": bucket.vector.bits})
            content = RecordDict(dict(message.content))
            content[SECURE] = record
            message.content = content

    def screen(self, node: int, reply: Message) -> Mapping[int, Accepted] | Rejected:
        """Keep the masked update of a reply; return an empty update of each member, or a reason."""
        bucket, number = self._places[node]
        vector = bucket.vector
        try:
            record = reply.content.get(self.arrays_key)
            if not isinstance(record, ArrayRecord):
                raise MalformedError(f"expected one ArrayRecord {self.arrays_key!r}")
            masked = read_masked(record, vector.words, vector.wide, vector.bits)
            held = {
                member: omitted_entries(
                    reply.content,
                    self._models[member].layout.names,
                    member if len(self._models) > 1 else None,
                ).unchanged
                for member in bucket.members
            }
        except (MalformedError, SecureAggregationError) as error:
            return Rejected(str(error))
        except Exception as error:  # a client can break only its own reply
            return Rejected(f"malformed ({type(error).__name__}: {printable(str(error), 120)})")
        bucket.sums.masked[number] = masked
        spent = _epsilon(reply)
        return {m: Accepted(NO_UPDATE, {}, {}, 1.0, spent, held[m]) for m in bucket.members}

    def unmask(self, accepted: Iterable[int]) -> list[BucketMean]:
        """Take the masks off and return what each bucket tells.

        Parameters
        ----------
        accepted : Iterable[int]
            The nodes whose reply passed screening.
        """
        kept = set(accepted)
        for bucket in self._buckets:
            sums = bucket.sums
            sums.masked = {n: v for n, v in sums.masked.items() if bucket.node(n) in kept}
        asked: dict[int, ConfigRecord] = {}
        for bucket in self._buckets:
            if len(bucket.sums.masked) >= bucket.sums.threshold:
                record = ConfigRecord({"stayed": sorted(bucket.sums.masked)})
                asked |= {bucket.node(number): record for number in bucket.sums.masked}
        self.questions.ask(UNMASK, asked, self._add_revealed)
        means = [self._mean(bucket) for bucket in self._buckets]
        for mean in means:
            if mean.void:
                text = "round %d: bucket %d is void: %s"
                log(WARNING, text, self.number, mean.place, mean.void)
        return means

    @property
    def _rotation(self) -> int:
        return self.seeds.integer("secure aggregation: rotation", self.number)

    def _deal(self, nodes: Sequence[int], assignments: Mapping[int, tuple[int, ...]]) -> None:
        """Deal the nodes that train the same members into buckets."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for node in nodes:
            groups.setdefault(assignments[node], []).append(node)
        run = self.grid.run.run_id
        for members, group in groups.items():
            rng = self.seeds.numpy("secure aggregation: buckets", self.number, *members)
            dealt = self.settings.deal(group, rng)
            if not dealt:
                reason = (
                    f"{FAILED}: too few clients for a bucket, found {len(group)}, needed are "
                    f"{self.settings.threshold_of(len(group))}"
                )
                self.absent |= dict.fromkeys(group, reason)
            for bucket_nodes in dealt:
                place, size = len(self._buckets), len(bucket_nodes)
                session = f"run {run}\nround {self.number}\nbucket {place}"
                layouts = tuple(self._models[member].layout for member in members)
                threshold = self.settings.threshold_of(size)
                bucket = DealtBucket(
                    place,
                    bucket_nodes,
                    members,
                    Bucket(session, threshold),
                    ClientVector(layouts, self.settings, size, threshold),
                )
                _ = bucket.vector.bits  # raises if there are too many
                self._buckets.append(bucket)
                for number, node in enumerate(bucket_nodes, start=1):
                    self._places[node] = bucket, number

    def _names(self, node: int) -> ConfigRecord:
        bucket, number = self._places[node]
        return ConfigRecord({"session": bucket.sums.session, "number": number})

    def _left(self, what: str, clients: Callable[[Bucket], Collection[int]]) -> set[int]:
        """Return the nodes that are left after a step, in the buckets that are not void."""
        left = set()
        for bucket in self._buckets:
            causes = self.questions.causes
            numbers = {n for n in clients(bucket.sums) if bucket.node(n) not in causes}
            shortage = bucket.sums.shortage(numbers, what)
            for number, node in enumerate(bucket.nodes, start=1):
                if node in self.absent:
                    continue
                if number not in numbers:
                    self.absent[node] = causes.get(node, LATE)
                elif shortage is not None:
                    self.absent[node] = f"{FAILED}: its bucket is void: {shortage}"
                else:
                    left.add(node)
        return left

    def _add_keys(self, node: int, record: ConfigRecord) -> None:
        bucket, number = self._places[node]
        keys = read_keys(record)
        if keys.keys() != {number}:
            raise MalformedError("secure aggregation: keys of another client")
        bucket.sums.add_keys(number, keys[number])

    def _add_shares(self, node: int, record: ConfigRecord) -> None:
        bucket, number = self._places[node]
        shares = by_client(record, "receivers", "shares", bucket.sums.keys)
        bucket.sums.add_shares(number, shares, read_commitment(record, bucket.sums.keys))

    def _add_revealed(self, node: int, record: ConfigRecord) -> None:
        bucket, number = self._places[node]
        known = bucket.sums.shares
        seeds = by_client(record, "stayed", "seed-shares", known)
        keys = by_client(record, "left", "key-shares", known)
        bucket.sums.add_revealed(number, seeds, keys)

    def _mean(self, bucket: DealtBucket) -> BucketMean:
        """Return what a bucket tells."""
        sums, dealt = bucket.sums, tuple(bucket.nodes)
        nodes = tuple(bucket.node(number) for number in sums.masked)
        place, members = bucket.place, bucket.members
        holders = {holder for shares in sums.seed_shares.values() for holder in shares}
        shortage = sums.shortage(sums.masked, "sent a masked update")
        shortage = shortage or sums.shortage(holders, "revealed their shares")
        try:
            total = sums.total()
            sums.masked = {}  # they may be large
            models = [self._models[member] for member in members]
            mean = bucket.vector.decode(
                total, len(nodes), [model.others for model in models], self._rotation
            )
        except SecureAggregationError as error:
            sums.masked = {}
            text = shortage or str(error)
            return BucketMean(place, dealt, members, nodes, {}, text, shortage is None)
        accepted = {
            member: Accepted(delta, others, {}, float(mean.examples), {})
            for member, delta, others in zip(bucket.members, mean.deltas, mean.others, strict=True)
        }
        return BucketMean(place, dealt, members, nodes, accepted, clipped=mean.clipped)


def _epsilon(reply: Message) -> dict[str, float]:
    """Return the epsilon that a reply reports, if it is a finite number."""
    for record in records_of(reply.content, MetricRecord).values():
        value = record.get(EPSILON)
        if isinstance(value, int | float) and math.isfinite(value):
            return {EPSILON: float(value)}
    return {}
