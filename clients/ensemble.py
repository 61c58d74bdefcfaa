"""The Flower client, which trains ensemble members on its partition."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
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

from hqde_fl.clients.cache_location import CACHE_DIR
from hqde_fl.clients.control_variates import ControlVariate, control_variates
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.initial_state import build_member
from hqde_fl.clients.kept_training import KeptTraining
from hqde_fl.clients.message_fields import array_record, partition_of, server_round
from hqde_fl.clients.partition_cache import PartitionCache
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.sampled_steps import SampledSteps, SpentSteps
from hqde_fl.clients.scoring import NoTargetsError
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import load_evaluation_set, load_partition
from hqde_fl.clients.training import Training, train
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.monitor.spans import EVALUATE, TRAIN, span
from hqde_fl.prediction import EnsemblePredictor
from hqde_fl.protocol.example_counts import examples_answer
from hqde_fl.protocol.members import (
    TAG,
    TAGS,
    add_member_prefix,
    member_name,
    message_config,
    requested_members,
    select_member,
    split_members,
)
from hqde_fl.protocol.no_data import no_data
from hqde_fl.protocol.node_numbers import names_partition
from hqde_fl.protocol.partial_work import WORK, requested_work
from hqde_fl.protocol.partition_claims import EDGE_ID
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.protocol.spent_epsilon import EPSILON
from hqde_fl.seeding import Seeds

V = TypeVar("V")


@dataclass(frozen=True)
class _AssignedMember:
    """One ensemble member in a training message.

    With ``prefixed``, its entries in the reply are named ``member-<number>/...``.
    """

    member: int
    state: dict[str, Tensor]
    prefixed: bool
    tag: Any = None

    def name(self, values: Mapping[str, V]) -> dict[str, V]:
        return add_member_prefix(self.member, values) if self.prefixed else dict(values)


@final
class EnsembleClient:
    """A Flower client with k >= 1 ensemble members.

    One object serves all clients that its process simulates: models and optimisers are built once,
    partitions are loaded once (see ``PartitionCache``). No client affects the next one: weights
    and buffers come from the message, whatever else a module keeps is as when it was built (see
    ``FreshModel``), the optimisers' state is cleared, and random numbers are seeded by ``("client",
    partition, round, member)``. A reply therefore depends on the message and the partition alone,
    not on earlier work of the process; with ``Training.keep_optimizer`` also on what the client's
    own context holds (see ``KeptTraining``).

    A training message may hold some of the members only (see ``hqde_fl.protocol.members``); the
    reply then holds the same members, each with the tag that the message gave it.

    Parameters
    ----------
    task : Task
        The model, data, loss and metrics.
    members : int, default=1
        Number of members in the ensemble, >= 1.
    training : Training, optional
        Settings of local training; ``Training()`` if not given.
    seed : int, default=0
        The run's seed.
    bagging : bool, default=False
        Train each member on a bootstrap sample of the partition, of the partition's size and the
        same in every round.
    predictor : EnsemblePredictor, optional
        Combines the members' predictions in evaluation; soft vote if not given.
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
        if bagging and training is not None and training.dp_sgd is not None:
            raise ConfigError("bagging repeats examples, which DP-SGD does not allow for")
        self.task, self.members = task, members
        self.training, self.bagging = training or Training(), bagging
        self.seeds, self.predictor = Seeds(seed), predictor
        self._models: dict[int, FreshModel] = {}
        self._partitions = PartitionCache()

    def train(self, message: Message, context: Context) -> Message:
        """Train the message's members on the node's partition and reply with their full weights.

        For a partition without examples, or of which no label counts, the reply is that of
        ``hqde_fl.protocol.no_data``.
        """
        with client_named(context):
            try:
                return self._train(message, context)
            except NoTargetsError:
                return no_data(message)

    @span(TRAIN)
    def _train(self, message: Message, context: Context) -> Message:
        start = time.perf_counter()
        partition, _ = partition_of(context)
        data = self.partition(context)
        if len(data) == 0:  # type: ignore[arg-type]
            return no_data(message)
        name, record = array_record(message)
        number, work = server_round(message), self.training.part_done(requested_work(message))
        controls = self._controls()
        assigned_members = self._assigned_members(message, from_record(record))
        epsilon = self._spend(context, len(data), work, len(assigned_members))  # type: ignore[arg-type]
        with reproducible(self.seeds.integer("client", partition, number)):
            losses, returned, tags = [], ArrayRecord(), ConfigRecord()
            kept = dict[int, KeptTraining]()
            for assigned in assigned_members:
                fresh = self.model(assigned.member).load_to_train(assigned.state)
                who = partition, number, assigned.member
                if self.training.keep_optimizer:
                    kept[assigned.member] = self._kept(context, assigned.member)
                control = controls.get(assigned.member)
                state = kept.get(assigned.member)
                losses.append(self.train_locally(*fresh, data, who, work, state, control))
                model = fresh[0]
                # a member's part of the reply is assembled here and nowhere else
                returned.update(assigned.name(to_record(model.state_dict())))
                if assigned.tag is not None:
                    tags.update(assigned.name({TAG: assigned.tag}))
        for member, state in kept.items():
            state.store(context, member)  # only when all members are trained
        loss, seconds = sum(losses) / len(losses), time.perf_counter() - start
        metrics = training_metrics(len(data), loss, seconds, work)  # type: ignore[arg-type]
        if epsilon is not None:
            del metrics["train-loss"]  # no noise protects it
            metrics[EPSILON] = epsilon
        content = RecordDict({name: returned, "metrics": MetricRecord(metrics)})
        if tags:
            content[TAGS] = tags
        return Message(content, reply_to=message)

    def evaluate(self, message: Message, context: Context) -> Message:
        """Reply with the ensemble's metrics on the node's data.

        These are what ``Task.evaluation`` returns, or else its training data.

        The metrics are ``num-examples`` and ``eval-...``. For a partition without examples, or of
        which no label counts, the reply is that of ``hqde_fl.protocol.no_data``.
        """
        with client_named(context):
            try:
                return self._evaluate(message, context)
            except NoTargetsError:
                return no_data(message)

    @span(EVALUATE)
    def _evaluate(self, message: Message, context: Context) -> Message:
        if self.training.dp_sgd is not None and self.task.evaluation is None:
            raise TaskError("DP-SGD protects the training data: they are not evaluated on")
        partition, count = partition_of(context)
        config = context.node_config
        data = (
            self._partitions.get(
                ("evaluation", *_data_key(context)),
                lambda: load_evaluation_set(self.task, partition, count, config),
            )
            if self.task.evaluation is not None
            else self.partition(context)
        )
        if len(data) == 0:  # type: ignore[arg-type]
            return no_data(message)
        _, record = array_record(message)
        with reproducible(self.seeds.integer("evaluate", partition), self.training.threads):
            states = split_members(from_record(record), self.members)
            models = [self.model(member).load(state) for member, state in enumerate(states)]
            values = evaluate(models, data, self.task, predictor=self.predictor)
        metrics: dict[str, MetricRecordValues] = {
            "num-examples": len(data)  # type: ignore[arg-type]
        }
        metrics |= {f"eval-{name}": value for name, value in values.items()}
        return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)

    def train_locally(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Dataset[Any],
        who: tuple[int, int, int],
        work: float,
        kept: KeptTraining | None = None,
        control: ControlVariate | None = None,
    ) -> float:
        """Train a member in place as one client does, and return its mean loss.

        Parameters
        ----------
        model, optimizer : nn.Module and Optimizer
            The member with the weights that it begins with, and its optimiser.
        data : Dataset
            The client's partition.
        who : tuple[int, int, int]
            The partition's id, the round and the member.
        work : float
            The part of its local training, in (0, 1].
        kept : KeptTraining, optional
            What the client keeps of its training, where it does.
        control : ControlVariate, optional
            SCAFFOLD's correction of the gradients.
        """
        partition, number, member = who
        generator = self.seeds.torch("client", *who)
        bag = self._bag(data, partition, member)
        return train(
            model,
            bag,
            self.task,
            self.training,
            generator,
            optimizer,
            work,
            number,
            kept,
            control,
        )

    def _kept(self, context: Context, member: int) -> KeptTraining:
        """Return what a client has kept of its training of a member."""
        partition, _ = partition_of(context)

        def order(number: int) -> torch.Generator:
            return self.seeds.torch("pass", partition, member, number)

        return KeptTraining.of(context, member, order)

    def _controls(self) -> dict[int, ControlVariate]:
        """Return the control variates of the message's members; none without SCAFFOLD.

        Raises ``ConfigError`` if the server and this client do not both take part in it.
        """
        controls = control_variates.get()
        if (controls is not None) != self.training.control_variates:
            sent = "sends" if controls is not None else "sends no"
            raise ConfigError(
                f"SCAFFOLD takes both ends: this server {sent} control variates, and these clients "
                f"have Training(control_variates={self.training.control_variates})"
            )
        return controls or {}

    def identity(self, message: Message, context: Context) -> Message:
        """Reply with the id of the node's partition, as ``partition-id`` in a ``ConfigRecord``.

        The record has none if the node's config names none: the server numbers the node then. If
        the config says to which edge it belongs, ``edge-id`` is beside it.
        """
        identity = ConfigRecord()
        if names_partition(context):
            identity["partition-id"] = partition_of(context)[0]
        if (edge := context.node_config.get(EDGE_ID)) is not None:
            identity[EDGE_ID] = edge
        return Message(RecordDict({"identity": identity}), reply_to=message)

    def examples(self, message: Message, context: Context) -> Message:
        """Reply with the number of examples of the node's partition, in a ``ConfigRecord``."""
        with client_named(context):
            return examples_answer(message, len(self.partition(context)))  # type: ignore[arg-type]

    def _spend(self, context: Context, examples: int, work: float, members: int) -> float | None:
        """Add a training by DP-SGD to the client's state, and return the epsilon of all so far.

        Return None if the training is not private. Raise ``TaskError``, before the training, if the
        epsilon would exceed its target.
        """
        training, settings = self.training, self.training.dp_sgd
        if settings is None:
            return None
        plan = SampledSteps.planned(
            settings, examples, training.batch_size, training.epochs, work, training.steps
        )
        spent = SpentSteps.of(context).plus(plan, members)
        epsilon, target = spent.epsilon(settings.delta), settings.target_epsilon
        if target and epsilon > target:
            raise TaskError(
                f"another training by DP-SGD needs epsilon {epsilon:.4g}, the target is {target:g}"
            )
        spent.store(context)
        return epsilon

    def _assigned_members(
        self, message: Message, state: dict[str, Tensor]
    ) -> list[_AssignedMember]:
        """Return the members that a training message lists, or all if it lists none."""
        assigned = requested_members(message)
        if assigned is None:
            states = enumerate(split_members(state, self.members))
            return [_AssignedMember(member, own, self.members > 1) for member, own in states]
        tags = {
            member: select_member(member, message_config(message)).get(TAG) for member in assigned
        }
        return [_AssignedMember(m, select_member(m, state), True, tags[m]) for m in assigned]

    def model(self, member: int) -> FreshModel:
        """Return a member's model, which is built on first use.

        Raises ``ConfigError`` if there is no such member.
        """
        if not 0 <= member < self.members:
            raise ConfigError(f"a client of {self.members} members has no {member_name(member)}")
        if member not in self._models:

            def build() -> nn.Module:
                return build_member(self.task, self.seeds, member).to(self.training.placement)

            self._models[member] = FreshModel(build, self.training.new_optimizer)
        return self._models[member]

    def _bag(self, data: Dataset[Any], partition: int, member: int) -> Dataset[Any]:
        """Return a member's training data: the partition, or with bagging a bootstrap sample."""
        if not self.bagging:
            return data
        size = len(data)  # type: ignore[arg-type]
        rng = self.seeds.numpy("bag", partition, member)
        return data_subset(data, rng.integers(size, size=size).tolist())

    def partition(self, context: Context) -> Dataset[Any]:
        """Return the data of a node's partition, from the cache if they are there."""
        partition, count = partition_of(context)
        config = context.node_config
        return self._partitions.get(
            _data_key(context), lambda: load_partition(self.task, partition, count, config)
        )


def _data_key(context: Context) -> tuple[Hashable, ...]:
    """Return what a client's data depend on; each simulated run has another cache folder."""
    config = {key: value for key, value in context.node_config.items() if key != CACHE_DIR}
    return (*partition_of(context), frozenset(config.items()))


def training_metrics(
    examples: int, loss: float, seconds: float, work: float
) -> dict[str, MetricRecordValues]:
    """Return the metrics of a reply to a training message.

    Parameters
    ----------
    examples : int
        The number of examples of the client's partition.
    loss : float
        The mean training loss.
    seconds : float
        The duration of loading and training.
    work : float
        The part of its local training that the client did, in (0, 1].
    """
    metrics: dict[str, MetricRecordValues] = {
        "num-examples": examples,
        "train-loss": loss,
        "train-seconds": seconds,
    }
    return metrics | {WORK: work} if work < 1 else metrics


@contextmanager
def client_named(context: Context) -> Iterator[None]:
    """Name the client in the message of a ``TaskError``."""
    try:
        yield
    except TaskError as error:
        raise TaskError(f"client {partition_of(context)[0]}: {error}") from error
