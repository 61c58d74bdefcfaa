"""Secure aggregation on clients: nothing of an update leaves but under masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.message_fields import array_record, is_training, server_round
from hqde_fl.clients.node_folder import NODE_FOLDER, PEERS, PRIVATE_KEY
from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.privacy.secure_sums.client import SecureClient
from hqde_fl.privacy.secure_sums.signatures import SiteIdentity
from hqde_fl.protocol.flower_internals import ErrorCode
from hqde_fl.protocol.members import (
    TAGS,
    add_member_prefix,
    config_value,
    model_arrays,
)
from hqde_fl.protocol.message_roles import message_layouts
from hqde_fl.protocol.npy import MalformedError
from hqde_fl.protocol.omitted_entries import ENTRIES, LEAVE_OUT, UNCHANGED, mask_of
from hqde_fl.protocol.records import from_record
from hqde_fl.protocol.screening import NUM_EXAMPLES
from hqde_fl.protocol.secure_messages import (
    KEYS,
    SHARES,
    UNMASK,
    answer,
    by_client,
    commitment_lists,
    keys_record,
    masked_record,
    query_type,
    read_keys,
    secure_record,
    value_of,
    with_clients,
)
from hqde_fl.protocol.secure_state import forget, load, store
from hqde_fl.protocol.secure_vectors import ClientVector
from hqde_fl.protocol.spent_epsilon import EPSILON
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Layout


@final
@dataclass(frozen=True)
class SecureAggregationMod:
    """A Flower mod that sends an update only as a part of a sum that no server can take apart.

    A training message that does not ask for masks is refused, as is a bucket with a lower threshold
    than that of the settings. Metrics of the training stay on the client, but for an epsilon. It
    belongs outside of all mods that change the weights. The keys of a round are kept in
    ``Context.state`` until it ends.

    Parameters
    ----------
    settings : SecureAggregation
        The settings, which must be the server's.
    seed : int, default=0
        The run's seed, for rounding. Keys come from the operating system.
    """

    settings: SecureAggregation
    seed: int = 0

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer a step of secure aggregation; train, and return the update under masks."""
        steps = {
            query_type(KEYS): self._advertise,
            query_type(SHARES): self._share,
            query_type(UNMASK): self._unmask,
        }
        step = steps.get(message.metadata.message_type)
        try:
            if step is not None:
                return step(message, context)
            if is_training(message):
                return self._train(message, context, call_next)
        except (SecureAggregationError, MalformedError) as error:
            return refused(message, str(error))
        return call_next(message, context)

    def _advertise(self, message: Message, context: Context) -> Message:
        """Return new public keys; those of an earlier round are forgotten."""
        record = _record(message)
        number = value_of(record, "number", int)
        client = SecureClient.new(value_of(record, "session", str), number)
        store(context, client)
        keys = _identity(context).signed(client.public_keys, client.session, number)
        return answer(message, keys_record({number: keys}))

    def _share(self, message: Message, context: Context) -> Message:
        """Return the encrypted shares of this client's secrets for the others of its bucket."""
        record, client = _record(message), load(context)
        peers, threshold = read_keys(record), value_of(record, "threshold", int)
        if threshold < (least := self.settings.threshold_of(len(peers))):
            raise SecureAggregationError(
                f"the server's threshold is {threshold} among {len(peers)} clients, this client's "
                f"is {least}"
            )
        _identity(context).check(peers, client.session)
        client, encrypted, hashes = client.share(peers, threshold)
        store(context, client)
        lists = with_clients("receivers", "shares", encrypted)
        return answer(message, ConfigRecord({**lists, **commitment_lists(hashes)}))

    def _train(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Train, and return the update under masks."""
        record, client = _record(message), load(context)
        peers = client.peers or {}
        encrypted = by_client(record, "senders", "shares", peers)
        client.check_stays(encrypted)  # before the training, which may take long
        rotation, bits = value_of(record, "rotation", int), value_of(record, "bits", int)
        _, arrays = array_record(message)
        layouts = message_layouts(message, arrays)
        sent = [from_record(model_arrays(arrays, member)) for member in layouts]
        parts = tuple(layouts.values())
        vector = ClientVector(parts, self.settings, len(peers), client.threshold)
        if bits != vector.bits:
            raise SecureAggregationError(
                f"the server has {bits} bits for a sum over {len(peers)} clients, this client's "
                f"settings {vector.bits}"
            )
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        name, trained = array_record(reply)
        partition = int(context.node_config.get("partition-id", context.node_id))
        masked_from = vector.encode(
            sent,
            [from_record(model_arrays(trained, member)) for member in layouts],
            _examples(reply),
            rotation,
            Seeds(self.seed).numpy("secure aggregation", partition, server_round(message)),
        )
        client, masked = client.masked(encrypted, masked_from)
        store(context, client)
        metrics = MetricRecord()
        for value in _values(reply, EPSILON):  # it tells nothing of the data
            metrics[EPSILON] = value
        content = RecordDict({name: masked_record(masked), "metrics": metrics})
        if config_value(message, LEAVE_OUT, bool) is True:
            content[ENTRIES] = _frozen_entries(layouts)
        if TAGS in reply.content.config_records:
            content[TAGS] = reply.content.config_records[TAGS]
        return Message(content, reply_to=message)

    def _unmask(self, message: Message, context: Context) -> Message:
        """Return the shares by which the server takes the masks off the sum; forget all keys."""
        record, client = _record(message), load(context)
        stayed = [n for n in value_of(record, "stayed", list) if type(n) is int]
        forget(context)  # whatever becomes of the answer, there is no second one
        seeds, keys = client.unmask(stayed)
        return answer(
            message,
            ConfigRecord(
                {
                    **with_clients("stayed", "seed-shares", seeds),
                    **with_clients("left", "key-shares", keys),
                }
            ),
        )


def _frozen_entries(layouts: Mapping[int | None, Layout]) -> ConfigRecord:
    """Return the record by which a mod further out says that the node holds the frozen entries."""
    told = ConfigRecord()
    for member, layout in layouts.items():
        frozen = {entry.name for entry in layout.entries if entry.role == "frozen"}
        if frozen and not layout.inferred:
            mask = {UNCHANGED: mask_of(frozen, layout.names)}
            told.update(mask if member is None else add_member_prefix(member, mask))
    return told


def unanswered(message: Message, context: Context) -> Message:
    """Return the error reply of an app without a ``SecureAggregationMod``.

    An app that has the mod registers this function for the queries, so that Flower calls the mod.
    """
    return refused(message, "this client has no settings of secure aggregation")


def refused(message: Message, reason: str) -> Message:
    """Return an error reply with a reason."""
    text = f"secure aggregation: {reason.removeprefix('secure aggregation: ')}"
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, text), reply_to=message)


def _identity(context: Context) -> SiteIdentity:
    """Return the site's key and those that it trusts; neither where the node has no folder."""
    folder = context.node_config.get(NODE_FOLDER)
    if not isinstance(folder, str):
        return SiteIdentity()
    return SiteIdentity.of_files(Path(folder) / PRIVATE_KEY, Path(folder) / PEERS)


def _record(message: Message) -> ConfigRecord:
    record = secure_record(message.content)
    if record is None:
        raise SecureAggregationError("the server asks for an update without masks")
    return record


def _examples(reply: Message) -> int:
    """Return the number of examples that the training reports; 0 if it reports none."""
    return next((int(min(max(count, 0), 1e12)) for count in _values(reply, NUM_EXAMPLES)), 0)


def _values(reply: Message, metric: str) -> list[float]:
    """Return the numbers that a reply has under the name of a metric, but for NaN."""
    values = (record.get(metric) for record in reply.content.metric_records.values())
    return [float(value) for value in values if isinstance(value, int | float) and value == value]
