"""The base class of local faults, and the ways in which they change a reply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, final

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from hqde_fl.clients.message_fields import array_record, is_training, partition_of, server_round
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.clients.training_hooks import idle
from hqde_fl.protocol.members import member_name
from hqde_fl.protocol.message_roles import message_layouts
from hqde_fl.protocol.npy import decode_array
from hqde_fl.protocol.records import to_array
from hqde_fl.protocol.screening import NUM_EXAMPLES
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Entry

State = Mapping[str, Tensor]


class Fault(ABC):
    """A Flower mod that makes a client faulty.

    Used as a mod directly it makes every client of the app faulty, with seed 0. ``only_for`` limits
    it to some clients, gives it the run's seed, and separates errors of the fault's own code from
    those of the client's honest training.
    """

    raises: ClassVar[bool] = False
    """True if raising an exception is the fault's purpose, and so no error in its code."""

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the fault can act on a task; by default never raise.

        Called before a run starts, with facts of the server's test set.
        """
        return

    @final
    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer a training message with the faulty reply; pass any other message on."""
        return self.apply(message, context, call_next, Seeds(0))

    @final
    def apply(
        self, message: Message, context: Context, call_next: ClientAppCallable, seeds: Seeds
    ) -> Message:
        """Answer a training message with the faulty reply, with random numbers from ``seeds``.

        Any other message is passed on. The generator is seeded by the fault, the partition and the
        round, so that a faulty reply does not depend on the order in which clients run.
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
        """Return the faulty client's reply to a training message."""


def reply_without_training(
    message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    """Return the reply of a client that skips its training and sends the model that it received.

    Its metrics are those of an honest reply: the partition's true number of examples, and the
    global model's loss on the first batch. A client that does not use ``hqde_fl.clients.training``
    cannot be stopped from training.
    """
    token = idle.set(True)
    try:
        return call_next(message, context)
    finally:
        idle.reset(token)


def with_changed_state(
    message: Message,
    reply: Message,
    change: Callable[[State, State], State],
    chosen: Callable[[Entry], bool] = lambda entry: entry.role == "trainable",
) -> Message:
    """Return a reply whose weights, or other chosen entries, are changed.

    A tensor with several names is changed once, and all of its names get the same bits. Entries
    that are not chosen, and those that the message does not have in the same shape and dtype, stay
    as they are in the reply.

    Parameters
    ----------
    message : Message
        The training message that the reply answers.
    reply : Message
        The honest reply. An error reply, or one without exactly one ``ArrayRecord``, is returned
        unchanged.
    change : Callable[[State, State], State]
        (global state, trained state) -> the numbers to send, all three of the chosen entries alone
        and real: complex numbers are pairs along a last dimension, half precision is float32. What
        is returned may have another floating-point dtype.
    chosen : Callable[[Entry], bool], optional
        Tells which entries are changed; the weights if not given.
    """

    def rewrite(trained: ArrayRecord) -> ArrayRecord:
        _, received = array_record(message)
        entries = {
            name: entry
            for name, entry in message_entries(message).items()
            if entry.tied_to is None and chosen(entry) and _alike(received[name], trained.get(name))
        }
        start, end = (
            {name: numbers_of(record[name]) for name in entries} for record in (received, trained)
        )
        changed = {
            name: to_array(entries[name].from_numbers(numbers.flatten()))
            for name, numbers in change(start, end).items()
        }
        return with_replaced(message, trained, changed)

    return with_changed_arrays(message, reply, rewrite)


def weight_names(message: Message, trained: ArrayRecord) -> list[str]:
    """Return the names of a message's weights that a record has, each tensor's first name alone."""
    entries = message_entries(message).items()
    return [name for name, entry in entries if name in trained and entry.offset is not None]


def message_entries(message: Message) -> dict[str, Entry]:
    """Return the entries of the models in a training message by their names in its arrays.

    Those are ``member-<i>/<name>`` in an ensemble; ``Entry.tied_to`` is such a name, too.
    """
    _, received = array_record(message)
    entries: dict[str, Entry] = {}
    for member, layout in message_layouts(message, received).items():
        prefix = "" if member is None else f"{member_name(member)}/"
        for entry in layout.entries:
            tied_to = None if entry.tied_to is None else prefix + entry.tied_to
            entries[prefix + entry.name] = replace(entry, tied_to=tied_to)
    return entries


def with_replaced(
    message: Message, trained: ArrayRecord, arrays: Mapping[str, Array]
) -> ArrayRecord:
    """Return a record with some arrays replaced, under all names of their tensors.

    Parameters
    ----------
    message : Message
        The training message, which tells the names.
    trained : ArrayRecord
        The record; not changed.
    arrays : Mapping[str, Array]
        The new arrays by the first names of their tensors.
    """
    first = {name: entry.tied_to or name for name, entry in message_entries(message).items()}
    return ArrayRecord(
        {name: arrays.get(first.get(name, name), array) for name, array in trained.items()}
    )


def _alike(one: Array, other: Array | None) -> bool:
    return other is not None and (one.dtype, one.shape) == (other.dtype, other.shape)


def numbers_of(array: Array) -> Tensor:
    """Return an array's real numbers, float32 at least, with complex ones as pairs."""
    tensor = decode_array(array)
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.to(torch.promote_types(real.dtype, torch.float32))


def with_changed_arrays(
    message: Message, reply: Message, rewrite: Callable[[ArrayRecord], ArrayRecord]
) -> Message:
    """Return a reply whose ``ArrayRecord`` is replaced, possibly by one that cannot be decoded.

    Parameters
    ----------
    message : Message
        The training message that the reply answers.
    reply : Message
        The honest reply. An error reply, or one without exactly one ``ArrayRecord``, is returned
        unchanged.
    rewrite : Callable[[ArrayRecord], ArrayRecord]
        Honest record -> the record to send; must not modify its argument.
    """
    if reply.has_error() or len(reply.content.array_records) != 1:
        return reply
    name, trained = array_record(reply)
    content = RecordDict(dict(reply.content))
    content[name] = rewrite(trained)
    return Message(content, reply_to=message)


def with_claimed_examples(message: Message, reply: Message, num_examples: float) -> Message:
    """Return a reply whose metrics claim another number of examples, as an int if it is whole.

    An error reply, and metrics without a number of examples, stay unchanged.
    """
    if reply.has_error():
        return reply
    whole = float(num_examples).is_integer() and abs(num_examples) < 2**63
    claim = int(num_examples) if whole else num_examples
    content = RecordDict(dict(reply.content))
    for name, record in reply.content.metric_records.items():
        if NUM_EXAMPLES in record:
            content[name] = MetricRecord({**record, NUM_EXAMPLES: claim})
    return Message(content, reply_to=message)
