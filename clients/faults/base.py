"""What all local faults share: they act on training messages, on the clients they were given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, final

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from hqde_fl.clients.message_fields import array_record, is_training, partition_of, server_round
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.clients.training import idle
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.protocol.screening import NUM_EXAMPLES
from hqde_fl.seeding import Seeds

State = Mapping[str, Tensor]


class Fault(ABC):
    """A way to be faulty, and a Flower mod.

    Used as a mod by itself it makes every client faulty that runs the app, with seed 0. Use
    ``only_for`` to choose the clients, to give it the run's seed, and to tell its own errors from
    those of the client's honest training.
    """

    raises: ClassVar[bool] = False
    """Whether raising an exception is what it does: then an exception is no error of its own."""

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless it can act on a task; by default it can on any.

        Asked before a run starts. What it needs to know of the examples it takes from ``facts``,
        whose data set is the server's test set then.
        """
        return

    @final
    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Act on a training message; hand on any other."""
        return self.apply(message, context, call_next, Seeds(0))

    @final
    def apply(
        self, message: Message, context: Context, call_next: ClientAppCallable, seeds: Seeds
    ) -> Message:
        """Act on a training message with generators from ``seeds``; hand on any other.

        The generator is named after the fault, the partition and the round, so that what a faulty
        client sends does not depend on who else ran before it.
        """
        if not is_training(message):
            return call_next(message, context)
        partition, _ = partition_of(context)
        name = type(self).__name__
        generator = seeds.torch("fault", name, partition, server_round(message))
        return self.act(message, context, call_next, generator)

    @abstractmethod
    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """The reply of the faulty client to a training message."""


def reply_without_training(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """The reply of a client that is asked to train but told to be idle.

    It has the metrics of an honest reply: the partition's true number of examples, and the global
    model's loss on its first batch. A client that does not train with
    ``hqde_fl.clients.training`` trains, in vain.
    """
    token = idle.set(True)
    try:
        return call_next(message, context)
    finally:
        idle.reset(token)


def with_changed_state(message: Message, reply: Message, change: Callable[[State, State], State]) -> Message:
    """A reply with other weights.

    Parameters
    ----------
    message : Message
        The training message that is answered.
    reply : Message
        The honest answer. An error, or an answer without exactly one ``ArrayRecord``, is returned
        as it is: there are no weights to falsify.
    change : Callable[[State, State], State]
        (global state, trained state) -> the state to send.
    """

    def rewrite(trained: ArrayRecord) -> ArrayRecord:
        _, start = array_record(message)
        return to_record(change(from_record(start), from_record(trained)))

    return with_changed_arrays(message, reply, rewrite)


def with_changed_arrays(
    message: Message, reply: Message, rewrite: Callable[[ArrayRecord], ArrayRecord]
) -> Message:
    """A reply with another ``ArrayRecord``, which need not be one that anybody can read.

    Parameters
    ----------
    message : Message
        The training message that is answered.
    reply : Message
        The honest answer; returned as it is if there is nothing to falsify, as by ``with_changed_state``.
    rewrite : Callable[[ArrayRecord], ArrayRecord]
        Honest record -> the record to send; must not change the one it is given.
    """
    if reply.has_error() or len(reply.content.array_records) != 1:
        return reply
    name, trained = array_record(reply)
    content = RecordDict(dict(reply.content))
    content[name] = rewrite(trained)
    return Message(content, reply_to=message)


def with_claimed_examples(message: Message, reply: Message, num_examples: float) -> Message:
    """A reply that claims another number of examples; errors are returned as they are."""
    if reply.has_error():
        return reply
    whole = float(num_examples).is_integer() and abs(num_examples) < 2**63
    claim = int(num_examples) if whole else num_examples
    content = RecordDict(dict(reply.content))
    for name, record in reply.content.metric_records.items():
        if NUM_EXAMPLES in record:
            content[name] = MetricRecord({**record, NUM_EXAMPLES: claim})
    return Message(content, reply_to=message)
