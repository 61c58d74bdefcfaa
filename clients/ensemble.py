"""The client: trains the members it is sent on its own partition."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, final

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    MetricRecordValues,
    RecordDict,
)
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.members import split
from hqde_fl.clients.message_fields import array_record, partition_of, server_round
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training, reproducible, train
from hqde_fl.errors import ConfigError
from hqde_fl.prediction import EnsemblePredictor
from hqde_fl.protocol.members import TAG, TAGS, config_of, member_name, members_of, named, of_member
from hqde_fl.protocol.no_data import no_data
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds

PARTITIONS_KEPT = 256

V = TypeVar("V")


@dataclass(frozen=True)
class _Share:
    """One member in a message, and how what becomes of it is named in the reply."""

    member: int
    state: dict[str, Tensor]
    several: bool
    tag: Any = None

    def name(self, values: Mapping[str, V]) -> dict[str, V]:
        return named(self.member, values) if self.several else dict(values)


@final
class EnsembleClient:
    """A Flower client with k >= 1 ensemble members.

    One object serves all clients that its process plays: models and optimisers are built once,
    partitions are loaded once (the last 256 are kept). A client leaves nothing behind for the next:
    weights and buffers come from the message, optimisers forget, randomness is named
    ``("client", partition, round, member)``. So a reply depends on the message and on the partition
    alone, whatever the process did before.

    A training message may be about some of the members only (see ``hqde_fl.protocol.members``);
    the reply then holds these, each with the tag that came with it.

    Parameters
    ----------
    task : Task
        What is learnt.
    members : int, default=1
        The number of members in the ensemble, >= 1.
    training : Training, optional
        How each member is trained.
    seed : int, default=0
        The run's seed.
    bagging : bool, default=False
        Whether each member learns from a bootstrap sample of the partition, as large as it and the
        same in every round.
    predictor : EnsemblePredictor, optional
        How several members predict together when they are evaluated; by soft vote if not given.
    """

    def __init__(
        self,
        task: Task,
        *,
        members: int = 1,
        training: Training | None = None,
        seed: int = 0,
        bagging: bool = False,
        predictor: EnsemblePredictor | None = None,
    ) -> None:
        if members < 1:
            raise ConfigError(f"members must be >= 1, found {members}")
        self.task, self.members = task, members
        self.training, self.bagging = training or Training(), bagging
        self.seeds, self.predictor = Seeds(seed), predictor
        self._models: dict[int, tuple[nn.Module, Optimizer]] = {}
        self._partitions: dict[tuple[int, int], Dataset[Any]] = {}

    def train(self, message: Message, context: Context) -> Message:
        """Train the message's members on the node's partition; the reply holds full weights.

        A partition without examples gives the reply of ``hqde_fl.protocol.no_data``.
        """
        start = time.perf_counter()
        partition, count = partition_of(context)
        data = self._partition(partition, count)
        if len(data) == 0:  # type: ignore[arg-type]
            return no_data(message)
        name, record = array_record(message)
        number = server_round(message)
        with reproducible(self.seeds.integer("client", partition, number)):
            losses, returned, tags = [], ArrayRecord(), ConfigRecord()
            for share in self._shares(message, from_record(record)):
                model, optimizer = self._load(share.member, share.state)
                generator = self.seeds.torch("client", partition, number, share.member)
                bag = self._bag(data, partition, share.member)
                losses.append(train(model, bag, self.task, self.training, generator, optimizer))
                # what belongs to a member is put together here and nowhere else
                returned.update(share.name(to_record(model.state_dict())))
                if share.tag is not None:
                    tags.update(share.name({TAG: share.tag}))
        metrics: dict[str, MetricRecordValues] = {
            "num-examples": len(data),  # type: ignore[arg-type]
            "train-loss": sum(losses) / len(losses),
            "train-seconds": time.perf_counter() - start,
        }
        content = RecordDict({name: returned, "metrics": MetricRecord(metrics)})
        if tags:
            content[TAGS] = tags
        return Message(content, reply_to=message)

    def evaluate(self, message: Message, context: Context) -> Message:
        """Evaluate the ensemble on the node's partition, the data it also trains on."""
        partition, count = partition_of(context)
        data = self._partition(partition, count)
        if len(data) == 0:  # type: ignore[arg-type]
            return no_data(message)
        _, record = array_record(message)
        with reproducible(self.seeds.integer("evaluate", partition), self.training.threads):
            states = split(from_record(record), self.members)
            models = [self._load(member, state)[0] for member, state in enumerate(states)]
            found = evaluate(models, data, self.task, predictor=self.predictor)
        metrics: dict[str, MetricRecordValues] = {
            "num-examples": len(data)  # type: ignore[arg-type]
        }
        metrics |= {f"eval-{name}": value for name, value in found.items()}
        return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)

    def identity(self, message: Message, context: Context) -> Message:
        """Say which partition the node holds."""
        partition, _ = partition_of(context)
        identity = ConfigRecord({"partition-id": partition})
        return Message(RecordDict({"identity": identity}), reply_to=message)

    def _shares(self, message: Message, state: dict[str, Tensor]) -> list[_Share]:
        """The members that a message asks to train."""
        asked = members_of(message)
        if asked is None:
            found = enumerate(split(state, self.members))
            return [_Share(member, each, self.members > 1) for member, each in found]
        tags = {member: of_member(member, config_of(message)).get(TAG) for member in asked}
        return [_Share(m, of_member(m, state), True, tags[m]) for m in asked]

    def _load(self, member: int, state: dict[str, Tensor]) -> tuple[nn.Module, Optimizer]:
        """A member's model with weights that came in a message, and its optimiser."""
        if not 0 <= member < self.members:
            raise ConfigError(f"a client of {self.members} members has no {member_name(member)}")
        if member not in self._models:
            with reproducible(self.seeds.integer("member", member)):
                model = self.task.model().to(self.training.placement)
            self._models[member] = model, self.training.new_optimizer(model)
        self._models[member][0].load_state_dict(state)
        return self._models[member]

    def _bag(self, data: Dataset[Any], partition: int, member: int) -> Dataset[Any]:
        """What a member learns from: the partition, or its own bootstrap sample of it."""
        if not self.bagging:
            return data
        size = len(data)  # type: ignore[arg-type]
        rng = self.seeds.numpy("bag", partition, member)
        return data_subset(data, rng.integers(size, size=size).tolist())

    def _partition(self, partition: int, count: int) -> Dataset[Any]:
        """The partition's data, from the cache if the process has seen it."""
        key = (partition, count)
        if key not in self._partitions:
            if len(self._partitions) >= PARTITIONS_KEPT:
                self._partitions.pop(next(iter(self._partitions)))
            self._partitions[key] = self.task.partition(partition, count)
        return self._partitions[key]
