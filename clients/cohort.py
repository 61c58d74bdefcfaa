"""Training of several clients with one message, into the rows of one block of memory.

The replies are those that the clients give one by one, to the bit. What costs as much as the steps
of a small model is done once for all of them: reading the message, saving and restoring the random
generators. Entries of the model are in the block's memory while they are trained, so that no reply
is written.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor
from torch.utils.data import Dataset

from hqde_fl.clients.ensemble import EnsembleClient, client_named, training_metrics
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.message_fields import array_record, is_training, partition_of, server_round
from hqde_fl.clients.mods.codec import REQUEST
from hqde_fl.clients.mods.entries import UnchangedEntriesMod
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.scoring import NoTargetsError
from hqde_fl.monitor.spans import TRAIN, span
from hqde_fl.protocol.delta_broadcast import VERSION
from hqde_fl.protocol.held_entries import HELD_ENTRIES
from hqde_fl.protocol.members import MEMBERS, config_value, message_config, records_of
from hqde_fl.protocol.message_roles import BUFFERS, ROLES, TIED
from hqde_fl.protocol.no_data import no_data
from hqde_fl.protocol.omitted_entries import LEAVE_OUT
from hqde_fl.protocol.partial_work import requested_work
from hqde_fl.protocol.records import to_record
from hqde_fl.protocol.reply_block import (
    METRICS,
    BlockLayout,
    ReplyBlock,
    aligned_rows,
    has_finite_square,
)

ONE_BY_ONE = {REQUEST, VERSION, HELD_ENTRIES, BUFFERS, MEMBERS, TIED}
"""Keys of a message's config with which clients are called one by one."""


@final
@dataclass(frozen=True, eq=False)
class Call:
    """A message to a client.

    Parameters
    ----------
    message : Message or Callable
        The message, or a function that returns it: most replies do not need it.
    context : Context
        The client's context.
    """

    message: Message | Callable[[], Message]
    context: Context

    def request(self) -> Message:
        """Return the message."""
        return self.message if isinstance(self.message, Message) else self.message()


@final
@dataclass(eq=False)
class CohortReplies:
    """The replies of clients that were trained together.

    Parameters
    ----------
    block : ReplyBlock
        The replies that are rows of a block.
    rows : dict[int, int]
        Place of a client -> its row.
    others : dict[int, Message or str]
        Place of a client -> its reply, if that is no row, or the text of its exception.
    began, seconds : list[float]
        Unix time at which each client's call began, and its duration. Clients that were not started
        have none.
    """

    block: ReplyBlock
    rows: dict[int, int] = field(default_factory=dict)
    others: dict[int, Message | str] = field(default_factory=dict)
    began: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@final
class CohortTraining:
    """Trains clients that get the same content; made by ``of``.

    Parameters
    ----------
    client : EnsembleClient
        The client of this process.
    message : Message
        A message to one of them.
    fresh : FreshModel
        The client's model.
    layout : BlockLayout
        The layout of the message's model.
    """

    def __init__(
        self, client: EnsembleClient, message: Message, fresh: FreshModel, layout: BlockLayout
    ) -> None:
        self._client, self._fresh, self._layout = client, fresh, layout
        self._round = server_round(message)
        self._work = client.training.part_done(requested_work(message))
        self._start = layout.row(array_record(message)[1])
        told = isinstance(message_config(message).get(ROLES), str)
        self._omits = told and config_value(message, LEAVE_OUT, bool) is True

    @classmethod
    def of(cls, client: EnsembleClient, message: Message) -> CohortTraining | None:
        """Return the training of the clients that get a message's content.

        None if they must be called one by one: it is for one model on the CPU, all entries of which
        are sent and returned as they are.
        """
        training = client.training
        if not is_training(message) or client.members > 1 or training.dp_sgd is not None:
            return None
        if training.keeps_state:
            return None
        if len(records_of(message.content, ArrayRecord)) != 1:
            return None
        config = message_config(message)
        if config.keys() & ONE_BY_ONE or set(str(config.get(ROLES, ""))) - set("tsc"):
            return None
        name, record = array_record(message)
        layout, fresh = BlockLayout.of(name, record), client.model(0)
        if layout is None or (entries := fresh.entries) is None:
            return None
        built = [(key, tuple(entry.shape), entry.dtype) for key, entry in entries.items()]
        if built != [(e.name, e.shape, getattr(torch, e.dtype, None)) for e in layout.entries]:
            return None
        return cls(client, message, fresh, layout)

    @property
    def row_bytes(self) -> int:
        """The number of bytes of a client's row."""
        return self._layout.stride

    def train(
        self,
        calls: Sequence[Call],
        around: Callable[[int], AbstractContextManager[Any]],
        memory: npt.NDArray[np.uint8] | None = None,
        end: float = math.inf,
    ) -> CohortReplies:
        """Train clients one after the other, and return their replies.

        Parameters
        ----------
        calls : Sequence[Call]
            The clients.
        around : Callable
            The place of a client -> a context in which it is trained.
        memory : NDArray, optional
            (rows, row_bytes) at least as many rows as clients to write to; new ones if not given.
        end : float
            The time of ``time.monotonic`` after which no more client is started.
        """
        if memory is None:
            memory = aligned_rows(len(calls), self.row_bytes)
        contexts = [call.context for call in calls]
        loaded = [self._load(context) for context in contexts]  # outside of the seeded block
        columns, finite = list[dict[str, Any]](), list[bool]()
        replies = CohortReplies(ReplyBlock(self._layout, memory[:0], {}))
        try:
            with reproducible(0):  # restores the generators, which each client seeds for itself
                views = self._views(memory[: len(calls)])
                for place, context in enumerate(contexts):
                    if time.monotonic() > end:
                        break
                    replies.began.append(time.time())
                    started, row = time.perf_counter(), len(columns)
                    try:
                        with around(place), client_named(context):
                            memory[row] = self._start
                            values = [view[row] for view in views]
                            trained = self._train_one(context, loaded[place], values)
                        metrics, arrays = trained or ({}, None)
                        if trained and arrays is None and self._has_unchanged(memory[row]):
                            own = ReplyBlock(self._layout, memory[row : row + 1].copy(), {})
                            arrays = own.arrays(0)
                        if trained is None:
                            replies.others[place] = no_data(calls[place].request())
                        elif arrays is None:
                            replies.rows[place] = row
                            columns.append(metrics)
                            finite.append(has_finite_square(memory[row]))
                        else:
                            replies.others[place] = self._reply(calls[place], arrays, metrics)
                    except Exception as error:
                        text = f"{traceback.format_exc()}\n{type(error).__name__}: {error}"
                        replies.others[place] = text
                    replies.seconds.append(time.perf_counter() - started + loaded[place].seconds)
        finally:
            self._fresh.release()
        table = {name: [values[name] for values in columns] for name in (columns or [{}])[0]}
        replies.block = ReplyBlock(self._layout, memory[: len(columns)], table, finite)
        return replies

    def _load(self, context: Context) -> _Loaded:
        started = time.perf_counter()
        try:
            data: Any = self._client.partition(context)
            return _Loaded(data, len(data), time.perf_counter() - started)
        except Exception as error:
            return _Loaded(error, 0, time.perf_counter() - started)

    def _views(self, memory: npt.NDArray[np.uint8]) -> list[Sequence[Tensor]]:
        """Return for each entry a view of its place in each row."""
        tensor, views = torch.from_numpy(memory), list[Sequence[Tensor]]()
        for entry in self._layout.entries:
            part = tensor[:, entry.offset : entry.offset + entry.nbytes]
            typed = part.view(getattr(torch, entry.dtype))
            views.append(typed.view(len(memory), *entry.shape).unbind(0))
        return views

    def _train_one(
        self, context: Context, loaded: _Loaded, values: Sequence[Tensor]
    ) -> tuple[dict[str, Any], ArrayRecord | None] | None:
        """Train a client in the memory of some tensors; return the metrics of its reply.

        The arrays of its reply come with them if they are not in that memory any more. None if the
        client has no data.
        """
        if isinstance(loaded.data, Exception):
            raise loaded.data
        if loaded.examples == 0:
            return None
        started, (partition, _) = time.perf_counter(), partition_of(context)
        with span(TRAIN):
            model, optimizer = self._fresh.train_in(values)
            who = partition, self._round, 0
            try:
                loss = self._client.train_locally(model, optimizer, loaded.data, who, self._work)
            except NoTargetsError:
                return None
        seconds = time.perf_counter() - started + loaded.seconds
        metrics = training_metrics(loaded.examples, loss, seconds, self._work)
        in_place = self._fresh.is_in(model, values)
        return metrics, None if in_place else to_record(model.state_dict())

    def _has_unchanged(self, row: npt.NDArray[np.uint8]) -> bool:
        """Return True if an entry has the bits that were sent, and is to be left out then."""
        for entry in self._layout.entries if self._omits else ():
            first, last = entry.offset, entry.offset + entry.nbytes
            part = slice(first, min(first + 64, last))
            if row[part].tobytes() == self._start[part].tobytes() and np.array_equal(
                row[first:last], self._start[first:last]
            ):
                return True
        return False

    def _reply(self, call: Call, arrays: ArrayRecord, metrics: dict[str, Any]) -> Message:
        """Return the reply of a client that is no row: without the entries that did not change."""
        content = RecordDict({self._layout.record: arrays, METRICS: MetricRecord(metrics)})
        message = call.request()
        reply = Message(content, reply_to=message)
        return UnchangedEntriesMod()(message, call.context, lambda *_: reply)


@dataclass(frozen=True)
class _Loaded:
    """A client's partition, or the exception that loading it raised, and the seconds it took."""

    data: Dataset[Any] | Exception
    examples: int
    seconds: float
