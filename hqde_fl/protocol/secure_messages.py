"""The messages of secure aggregation: four questions of the server, and the clients' answers.

Three are queries of their own; the third question is the training message, which carries what the
others have encrypted for its client. Each has one ``ConfigRecord`` besides all else. What a client
sends is not trusted: the functions that read it raise ``MalformedError``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from hqde_fl.privacy.secure_sums.client import Commitment, PublicKeys
from hqde_fl.privacy.secure_sums.ring import RingVector
from hqde_fl.protocol.npy import MalformedError
from hqde_fl.protocol.records import plain_array

SECURE = "hqde.secure-aggregation"
"""Name of the ``ConfigRecord`` in messages and replies."""

KEYS, SHARES, UNMASK = "secure_keys", "secure_shares", "secure_unmask"
"""Actions of the queries, whose message types are ``query.<action>``."""

QUERIES = (KEYS, SHARES, UNMASK)

MASKED = "hqde.masked"
"""The serialisation type of a masked vector, and its name in the reply's ``ArrayRecord``."""

MAX_TEXT_BYTES = 256
"""Most bytes of what a client sends for one other client: keys, or encrypted shares."""

T = TypeVar("T")


def query_type(action: str) -> str:
    """Return the message type of a query."""
    return f"query.{action}"


def secure_record(content: RecordDict) -> ConfigRecord | None:
    """Return the record of secure aggregation in a message; None if it has none."""
    record = content.get(SECURE)
    return record if isinstance(record, ConfigRecord) else None


def value_of(record: ConfigRecord, key: str, kind: type[T]) -> T:
    """Return a value of a type in a record; raise ``MalformedError`` if it is not there."""
    value = record.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedError(f"secure aggregation: {key!r} is missing or no {kind.__name__}")
    return value


def by_client(
    record: ConfigRecord, clients: str, values: str, known: Iterable[int]
) -> dict[int, bytes]:
    """Return client -> bytes, of two lists in a record.

    Raises
    ------
    MalformedError
        If they are no such lists, a client is not among the ``known``, or is there twice, or bytes
        are more than any that are expected.
    """
    numbers, texts = value_of(record, clients, list), value_of(record, values, list)
    if len(numbers) != len(texts) or len(set(map(str, numbers))) != len(numbers):
        raise MalformedError(f"secure aggregation: {clients!r} and {values!r} do not go together")
    known = set(known)
    pairs = dict(zip(numbers, texts, strict=True))
    for number, text in pairs.items():
        if type(number) is not int or number not in known:
            raise MalformedError(f"secure aggregation: {clients!r} names {str(number)[:20]!r}")
        if not isinstance(text, bytes) or len(text) > MAX_TEXT_BYTES:
            raise MalformedError(f"secure aggregation: {values!r} has more than is expected")
    return pairs


def with_clients(
    clients: str, values: str, pairs: Mapping[int, bytes]
) -> dict[str, list[int] | list[bytes]]:
    """Return the two lists that ``by_client`` reads."""
    return {clients: list(pairs), values: list(pairs.values())}


def keys_record(peers: Mapping[int, PublicKeys]) -> ConfigRecord:
    """Return the keys of a bucket's clients as a record."""
    return ConfigRecord(
        {
            "clients": list(peers),
            "cipher-keys": [keys.cipher for keys in peers.values()],
            "masking-keys": [keys.masking for keys in peers.values()],
            "signers": [keys.signer for keys in peers.values()],
            "signatures": [keys.signature for keys in peers.values()],
        }
    )


def read_keys(record: ConfigRecord) -> dict[int, PublicKeys]:
    """Return client -> keys, of a record that ``keys_record`` made."""
    clients = [number for number in value_of(record, "clients", list) if type(number) is int]
    lists = ("cipher-keys", "masking-keys", "signers", "signatures")
    columns = [by_client(record, "clients", name, clients) for name in lists]
    return {number: PublicKeys(*(column[number] for column in columns)) for number in clients}


def commitment_lists(hashes: Commitment) -> dict[str, bytes | list[int] | list[bytes]]:
    """Return a commitment as the values that ``read_commitment`` reads."""
    return {
        "commitment": hashes.seed,
        "holders": list(hashes.shares),
        "seed-hashes": [pair[0] for pair in hashes.shares.values()],
        "key-hashes": [pair[1] for pair in hashes.shares.values()],
    }


def read_commitment(record: ConfigRecord, holders: Iterable[int]) -> Commitment:
    """Return the commitment in a record; raise ``MalformedError`` if it is none."""
    holders = set(holders)
    seeds = by_client(record, "holders", "seed-hashes", holders)
    keys = by_client(record, "holders", "key-hashes", holders)
    pairs = {holder: (seeds[holder], keys[holder]) for holder in seeds}
    return Commitment(value_of(record, "commitment", bytes), pairs)


def masked_record(vector: RingVector) -> ArrayRecord:
    """Return a masked vector as the only array of a reply."""
    data = vector.to_bytes()
    record = ArrayRecord()
    record[MASKED] = plain_array("uint8", (len(data),), MASKED, data)
    return record


def read_masked(record: ArrayRecord, words: int, wide: int, bits: int) -> RingVector:
    """Return the masked vector in a reply.

    Raises
    ------
    MalformedError
        If the record is any other.
    SecureAggregationError
        If the vector has another length.
    """
    array = record.get(MASKED)
    if len(record) != 1 or not isinstance(array, Array) or array.stype != MASKED:
        raise MalformedError("a reply without the masks of secure aggregation")
    if not isinstance(array.data, bytes):
        raise MalformedError("a masked vector that is no bytes")
    return RingVector.from_bytes(array.data, words, wide, bits)


def query(node: int, action: str, record: ConfigRecord, round_number: int) -> Message:
    """Return the message that asks a node for a step of secure aggregation."""
    content = RecordDict({SECURE: record})
    return Message(content, node, query_type(action), group_id=str(round_number))


def answer(message: Message, record: ConfigRecord) -> Message:
    """Return the reply to such a message."""
    return Message(RecordDict({SECURE: record}), reply_to=message)
