"""The client: trains the members it is sent on its own partition."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any, final

from flwr.app import ConfigRecord, Context, Message, MetricRecord, MetricRecordValues, RecordDict
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from clients.evaluation import evaluate
from clients.members import join, split
from clients.messages import arrays, partition_of, server_round
from clients.task import Task
from clients.training import Training, reproducible, train
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.wire import from_record, to_record

PARTITIONS_KEPT = 256


@final
class EnsembleClient:
    """A Flower client with k >= 1 ensemble members.

    One object serves all clients that its process plays: models and optimisers are built once,
    partitions are loaded once (the last 256 are kept). A client leaves nothing behind for the next:
    weights and buffers come from the message, optimisers forget, randomness is named
    ``("client", partition, round, member)``. So a reply depends on the message and on the partition
    alone, whatever the process did before.

    Parameters
    ----------
    task : Task
        What is learnt.
    members : int, default=1
        k, the number of models in the message, >= 1.
    training : Training, optional
        How each member is trained.
    seed : int, default=0
        The run's seed.
    """

    def __init__(
        self,
        task: Task,
        *,
        members: int = 1,
        training: Training | None = None,
        seed: int = 0,
    ) -> None:
        if members < 1:
            raise ConfigError(f"members must be >= 1, found {members}")
        self.task, self.members = task, members
        self.training = training or Training()
        self.seeds = Seeds(seed)
        self._partitions: dict[tuple[int, int], Dataset[Any]] = {}

    def train(self, message: Message, context: Context) -> Message:
        """Train every member on the node's partition; the reply holds the full weights."""
        start = time.perf_counter()
        partition, count = partition_of(context)
        data = self._partition(partition, count)
        name, record = arrays(message)
        number = server_round(message)
        with reproducible(self.seeds.integer("client", partition, number)):
            losses = []
            for member, (model, optimizer) in enumerate(self._load(from_record(record))):
                generator = self.seeds.torch("client", partition, number, member)
                losses.append(train(model, data, self.task, self.training, generator, optimizer))
            trained = to_record(join([model.state_dict() for model, _ in self._models]))
        metrics: dict[str, MetricRecordValues] = {
            "num-examples": len(data),  # type: ignore[arg-type]
            "train-loss": sum(losses) / len(losses),
            "train-seconds": time.perf_counter() - start,
        }
        return Message(
            RecordDict({name: trained, "metrics": MetricRecord(metrics)}), reply_to=message
        )

    def evaluate(self, message: Message, context: Context) -> Message:
        """Evaluate the members' soft vote on the node's partition, the data it also trains on."""
        partition, count = partition_of(context)
        data = self._partition(partition, count)
        _, record = arrays(message)
        with reproducible(self.seeds.integer("evaluate", partition), self.training.threads):
            models = [model for model, _ in self._load(from_record(record))]
            found = evaluate(models, data, self.task)
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

    @cached_property
    def _models(self) -> list[tuple[nn.Module, Optimizer]]:
        built = []
        for member in range(self.members):
            with reproducible(self.seeds.integer("member", member)):
                model = self.task.model().to(self.training.placement)
            built.append((model, self.training.new_optimizer(model)))
        return built

    def _load(self, state: dict[str, Tensor]) -> list[tuple[nn.Module, Optimizer]]:
        """The models, holding the weights of a message."""
        for (model, _), member_state in zip(self._models, split(state, self.members), strict=True):
            model.load_state_dict(member_state)
        return self._models

    def _partition(self, partition: int, count: int) -> Dataset[Any]:
        """The partition's data, from the cache if the process has seen it."""
        key = (partition, count)
        if key not in self._partitions:
            if len(self._partitions) >= PARTITIONS_KEPT:
                self._partitions.pop(next(iter(self._partitions)))
            self._partitions[key] = self.task.partition(partition, count)
        return self._partitions[key]
