"""A bad reply as data: its name, what it does, and how to make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flwr.app import Context, Message, RecordDict

Asked = Literal["train", "evaluate"]


@dataclass(frozen=True)
class Case:
    """The moment at which a hostile client answers.

    Parameters
    ----------
    message : Message
        What it was asked.
    content : RecordDict
        What an honest client would answer; the row may change it.
    context : Context
        The client's own, which stays with it from round to round.
    before : Message or None
        What it was asked in the round before.
    neighbour : int
        The node id of an honest client.
    """

    message: Message
    content: RecordDict
    context: Context
    before: Message | None
    neighbour: int


@dataclass(frozen=True)
class Wire:
    """A reply as the objects that travel in a deployment, which need not make a ``Message``.

    Parameters
    ----------
    root : str
        The id of the object that says it is the message.
    objects : Mapping[str, bytes]
        Object id -> bytes, as uploaded.
    tree : bytes, optional
        The serialised ``ObjectTree`` that is announced before. If not given, it is not looked at.
    """

    root: str
    objects: Mapping[str, bytes]
    tree: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that travel."""
        parts = sum(len(key) + len(content) for key, content in self.objects.items())
        return parts + len(self.tree or b"")


Reply = Message | Wire
Replies = Callable[[Case], Sequence[Reply]]


@dataclass(frozen=True)
class Row:
    """One way to misbehave.

    Parameters
    ----------
    name : str
        In kebab-case.
    does : str
        What the client does, in a few words.
    expected : str
        How the reason begins that ``HQDEStrategy`` gives for dropping the client: ``rejected: ...``
        (by screening), ``failed`` (an error reply), ``late`` (nothing that counts as its answer).
        Empty: the reply is sound as far as screening can tell; what becomes of it is the rule's
        decision, or it does no harm.
    replies : Callable[[Case], Sequence[Reply]]
        What the client sends.
    asked : "train" or "evaluate"
        The kind of message it answers so; to the other kind it answers honestly.
    codec : bool
        Whether the row is about packed updates or models, which only hqde-fl knows.
    """

    name: str
    does: str
    expected: str
    replies: Replies
    asked: Asked = "train"
    codec: bool = False
