"""A Flower Grid whose clients run in this process: for tests, tiny models and debuggers.

Every message is copied as Flower would deliver it, so that client and server share no memory, as
on a network; clients of this project's own app that are trained together only read what they were
sent. Clients run one after the other; if one raises an exception, its reply is
an error, as in Flower.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import final

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp

from hqde_fl.clients.cache_location import CACHE_DIR
from hqde_fl.clients.cohort import Call, CohortTraining
from hqde_fl.monitor.spans import add_span
from hqde_fl.protocol.flower_internals import ErrorCode, TaskIdentity
from hqde_fl.protocol.replies import Replies
from hqde_fl.protocol.reply_block import BlockRow, RowMessage
from hqde_fl.simulations.engines.base import SERVER_NODE, LocalGrid
from hqde_fl.simulations.engines.cohort_calls import OneClient, cohort_training
from hqde_fl.simulations.engines.content_copy import copied_content
from hqde_fl.simulations.engines.monitored_call import monitored_call, monitored_round
from hqde_fl.simulations.engines.ray.packing import pack, unpack
from hqde_fl.simulations.engines.torch_settings import (
    TorchSettings,
    kept_torch_settings,
    without_autocast,
)

COHORT_CLIENTS, COHORT_BYTES = 16, 8 << 20
"""Clients that are trained together, and bytes of their replies, at most."""


@final
class InlineGrid(LocalGrid):
    """A Grid that calls its clients in this process, one after the other.

    Parameters
    ----------
    client_app : ClientApp
        The app of every client.
    partitions : int
        Number of clients.
    run_config : UserConfig
        The run's configuration, as the clients see it.
    seed : int
        Seed from which the node ids derive: they are the same in every run with it.
    """

    def __init__(
        self, client_app: ClientApp, partitions: int, run_config: UserConfig, seed: int = 0
    ) -> None:
        super().__init__(partitions, seed)
        self._client_app = client_app
        self._contexts = {
            node: Context(
                run_id=self._run.run_id,
                node_id=node,
                node_config={
                    "partition-id": partition,
                    "num-partitions": partitions,
                    CACHE_DIR: self._cache.path,
                },
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for node, partition in self._partitions.items()
        }

    def contexts(self, partitions: Iterable[int]) -> dict[int, RecordDict]:
        """Return the states of the clients of ``partitions``, by partition id.

        Clients without a state are left out. The records are new, but share the arrays' memory.
        """
        states = {part: self._contexts[self._nodes[part]].state for part in partitions}
        return {part: unpack(pack(state)) for part, state in states.items() if state}

    def set_contexts(self, contexts: Mapping[int, RecordDict]) -> None:
        """Replace the states of the clients in ``contexts`` by copies of these, by partition id.

        The other clients keep theirs.
        """
        for partition, state in contexts.items():
            own = unpack(pack(state))
            for record in own.array_records.values():
                for array in record.values():
                    array.data = bytes(array.data)  # it may be a view of another engine's memory
            self._contexts[self._nodes[partition]].state = own

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run the clients to which the messages go, one by one; return the messages' new ids.

        ``pull_messages`` returns the replies.
        """
        return [self._push(self._number(message), message) for message in messages]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies, ``Replies`` that run a client when the next one is asked for.

        A client that has not started after ``timeout`` seconds is not run and gives no reply at
        all, not even an error. One that has started cannot be interrupted.
        """
        sent, end = time.time(), time.monotonic() + (float("inf") if timeout is None else timeout)
        numbered = [(self._number(message), message) for message in messages]
        return Replies(self._run_in_turn(numbered, sent, end))

    def _run_in_turn(
        self, messages: Sequence[tuple[str, Message]], sent: float, end: float
    ) -> Iterator[Message]:
        place, content, training = 0, None, None
        while place < len(messages) and time.monotonic() <= end:
            message = messages[place][1]
            if message.content is not content:
                content = message.content
                training = self._cohort_training(message)
            if training is None:
                self._note_start(message, sent, time.time())
                yield self._replies.pop(self._push(*messages[place]))  # and keep no reference to it
                place += 1
                continue
            rows = max(1, min(COHORT_CLIENTS, COHORT_BYTES // training.row_bytes))
            following = (one for _, one in messages[place : place + rows])
            cohort = list(takewhile(lambda one: one.content is content, following))  # noqa: B023
            yield from self._run_cohort(training, cohort, sent, end)
            place += len(cohort)

    def _cohort_training(self, message: Message) -> CohortTraining | None:
        """Return the training of the clients that get a message's content, if there is one."""
        try:
            with kept_torch_settings(), without_autocast():
                node = message.metadata.dst_node_id
                return cohort_training(self._client_app, message, self._contexts[node])
        except Exception:  # each client says so by itself
            return None

    def _run_cohort(
        self, training: CohortTraining, messages: Sequence[Message], sent: float, end: float
    ) -> Iterator[Message]:
        """Yield the replies of some clients, which are trained together."""
        nodes = [message.metadata.dst_node_id for message in messages]
        settings = TorchSettings.current()

        def around(place: int) -> OneClient:
            node, metadata = nodes[place], messages[place].metadata
            kind, group = metadata.message_type, metadata.group_id
            recording = monitored_call(self._partitions[node], kind, group)
            return OneClient(node, settings, recording)

        contexts = [self._contexts[node] for node in nodes]
        calls = [
            Call(message, context) for message, context in zip(messages, contexts, strict=True)
        ]
        try:
            with kept_torch_settings(), without_autocast():
                replies = training.train(calls, around, end=end)
        finally:
            TaskIdentity.node_id = SERVER_NODE
        for place, seconds in enumerate(replies.seconds):
            message, node = messages[place], nodes[place]
            self._changed.add(node)
            self._call_seconds[node] = seconds
            self._note_start(message, sent, replies.began[place])
            if (row := replies.rows.get(place)) is not None:
                yield RowMessage(BlockRow(replies.block, row), message)
            elif isinstance(other := replies.others[place], str):
                code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
                yield Message(Error(code, other), reply_to=message)
            else:
                yield other

    def _note_start(self, message: Message, sent: float, began: float) -> None:
        """Record how long a client has waited."""
        metadata = message.metadata
        client = self._partitions[metadata.dst_node_id]
        number = monitored_round(metadata.group_id)
        add_span("wait", sent, began - sent, round=number, client=client)

    def _push(self, key: str, message: Message) -> str:
        """Run the client to which a message goes, keep the reply, and return the message's id."""
        metadata = message.metadata
        partition = self._partitions[metadata.dst_node_id]
        with monitored_call(partition, metadata.message_type, metadata.group_id):
            self._replies[key] = self._run_client(message)
        return key

    def _run_client(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = self._contexts[node]
        self._changed.add(node)
        received = copy.copy(message)
        received.content = copied_content(message.content)
        TaskIdentity.node_id = node
        started = time.perf_counter()
        try:
            # a client on another engine does not share the server's settings either
            with kept_torch_settings(), without_autocast():
                reply = self._client_app(received, context)
            if reply.has_error():
                return Message(reply.error, reply_to=message)
            return Message(copied_content(reply.content), reply_to=message)
        except Exception as error:
            reason = f"{traceback.format_exc()}\n{type(error).__name__}: {error}"
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code, reason), reply_to=message)
        finally:
            TaskIdentity.node_id = SERVER_NODE
            self._call_seconds[node] = time.perf_counter() - started
