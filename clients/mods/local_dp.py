"""Local differential privacy: a client clips its update and adds noise before anything is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from hqde_fl.clients.faults.base import State, message_entries, with_changed_state
from hqde_fl.clients.message_fields import array_record, is_training, partition_of, server_round
from hqde_fl.errors import TaskError
from hqde_fl.privacy.local import LocalDP
from hqde_fl.protocol.example_counts import EXAMPLES, examples_answer
from hqde_fl.protocol.flower_internals import ErrorCode
from hqde_fl.protocol.members import (
    TAG,
    TAGS,
    add_member_prefix,
    config_value,
    message_config,
    requested_members,
    select_member,
    uncopied_record,
)
from hqde_fl.protocol.message_roles import BUFFERS
from hqde_fl.protocol.no_data import has_no_data
from hqde_fl.protocol.partial_work import WORK
from hqde_fl.protocol.screening import NUM_EXAMPLES
from hqde_fl.protocol.spent_epsilon import EPSILON
from hqde_fl.seeding import Seeds

SPENT = "hqde.local-dp"
"""Name in the client's state of the record that counts its updates."""

UPDATES = "updates"


@final
@dataclass(frozen=True)
class LocalDPMod:
    """A Flower mod that lets nothing out of a client but updates with noise.

    The update of all weights together, in an ensemble those of all members in the message, is
    clipped and gets Gaussian noise. Everything else in the model is returned as the server sent it;
    statistics are returned only where a mod further out keeps them from the server (``buffers =
    "local"``). Metrics are replaced: every client has one example and no loss. A client without
    data sends noise. Evaluation is refused, as its metrics would tell of the data.

    It belongs inside of codecs: what they and their error feedback do to an update with noise is
    post-processing, which costs no privacy. The count of updates is kept in ``Context.state``: it
    is lost where the node's state is.

    Parameters
    ----------
    settings : LocalDP
        The clipping norm and the noise.
    seed : int
        The run's seed, for noise sources with one.
    """

    settings: LocalDP
    seed: int = 0

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Return a reply with noise to a training message, and none with data to any other."""
        kind = message.metadata.message_type
        if kind == EXAMPLES:
            return examples_answer(message, 1)
        if kind.partition(".")[0] == MessageType.EVALUATE:
            return _refused(message, "local differential privacy: no evaluation on a client's data")
        if not is_training(message):
            return call_next(message, context)
        spent = context.state.config_records.get(SPENT, ConfigRecord()).get(UPDATES, 0)
        updates = (spent if isinstance(spent, int) else 0) + 1
        epsilon, limit = self.settings.composed_epsilon(updates), self.settings.max_epsilon
        if limit and epsilon > limit:
            return _refused(
                message,
                f"local differential privacy: {updates} updates need epsilon {epsilon:.4g}, "
                f"max-epsilon is {limit:g}",
            )
        partition, _ = partition_of(context)
        rng = Seeds(self.seed).numpy("local-dp", partition, server_round(message))
        reply = call_next(message, context)
        if has_no_data(reply):
            reply = _unchanged(message)
        elif reply.has_error():
            return reply
        context.state[SPENT] = ConfigRecord({UPDATES: updates})  # whatever becomes of the reply
        return self._protected(message, reply, rng, epsilon)

    def _protected(
        self, message: Message, reply: Message, rng: np.random.Generator, epsilon: float
    ) -> Message:
        """Return a reply with noise on its weights, and nothing else of the data."""
        weights = {
            name
            for name, entry in message_entries(message).items()
            if entry.role == "trainable" and entry.tied_to is None
        }

        def add_noise(start: State, trained: State) -> State:
            if set(trained) != weights:
                raise TaskError("local differential privacy needs all weights in a client's reply")
            return _added(start, self._noised(_difference(start, trained), rng))

        name, trained = array_record(with_changed_state(message, reply, add_noise))
        _, received = array_record(message)
        shown = _shown(message, trained, received)
        metrics = MetricRecord({NUM_EXAMPLES: 1, EPSILON: epsilon})
        for record in reply.content.metric_records.values():
            if WORK in record:  # a number of the server's own
                metrics[WORK] = record[WORK]
        content = RecordDict({name: shown, "metrics": metrics})
        if TAGS in reply.content.config_records:
            content[TAGS] = reply.content.config_records[TAGS]
        return Message(content, reply_to=message)

    def _noised(self, update: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return an update (d,), clipped and with noise; one that is not finite counts as zero."""
        norm = float(np.linalg.norm(update))
        if not math.isfinite(norm):
            update, norm = np.zeros_like(update), 0.0
        settings = self.settings
        clipped = update * min(1.0, settings.clipping_norm / norm) if norm else update
        return settings.noise.add_noise(clipped, settings.deviation, settings.sensitivity, rng)


def _difference(start: State, trained: State) -> np.ndarray:
    """Return trained - start as one float64 vector."""
    parts = [(trained[name].double() - start[name].double()).flatten() for name in start]
    vector: np.ndarray = torch.cat(parts).numpy() if parts else np.zeros(0)
    return vector


def _added(start: State, update: np.ndarray) -> dict[str, Tensor]:
    """Return the weights ``start`` plus an update, in float64."""
    parts = torch.from_numpy(update).split([tensor.numel() for tensor in start.values()])
    return {
        name: tensor.double() + part.reshape(tensor.shape)
        for (name, tensor), part in zip(start.items(), parts, strict=True)
    }


def _shown(message: Message, trained: ArrayRecord, received: ArrayRecord) -> ArrayRecord:
    """Return the trained weights, with the server's own arrays in place of all other entries."""
    local = config_value(message, BUFFERS, str) == "local"
    shown: dict[str, Array] = {}
    for name, entry in message_entries(message).items():
        own = entry.role == "trainable" or (local and entry.role == "statistics")
        shown[name] = trained[name] if own and name in trained else received[name]
    return uncopied_record(shown)


def _unchanged(message: Message) -> Message:
    """Return the reply of a client that has trained all it was asked to, and changed nothing."""
    name, received = array_record(message)
    content = RecordDict({name: received, "metrics": MetricRecord({NUM_EXAMPLES: 1})})
    config = message_config(message)
    tags = ConfigRecord()
    for member in requested_members(message) or ():
        if (tag := select_member(member, config).get(TAG)) is not None:
            tags.update(add_member_prefix(member, {TAG: tag}))
    if tags:
        content[TAGS] = tags
    return Message(content, reply_to=message)


def _refused(message: Message, reason: str) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
