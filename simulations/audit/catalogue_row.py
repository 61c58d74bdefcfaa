"""A row of the catalogue: one hostile reply, with its name, description and builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flwr.app import Context, Message, RecordDict

RequestKind = Literal["train", "evaluate"]


@dataclass(frozen=True)
class AnswerContext:
    """The situation in which a hostile client answers a message.

    Parameters
    ----------
    message : Message
        The message that the client answers.
    content : RecordDict
        The content of an honest reply; a row may modify it.
    context : Context
        The client's context, kept from round to round.
    previous_message : Message or None
        The message that the client answered by this row before, in the previous round; None at
        first.
    neighbour : int
        Node id of an honest client.
    """

    message: Message
    content: RecordDict
    context: Context
    previous_message: Message | None
    neighbour: int


@dataclass(frozen=True)
class UploadedReply:
    """A reply as the objects that a deployment uploads, which need not form a valid ``Message``.

    Parameters
    ----------
    root : str
        Id of the object that claims to be the message.
    objects : Mapping[str, bytes]
        Object id -> bytes, as uploaded.
    tree : bytes, optional
        The serialised ``ObjectTree`` that announces the upload; not read if not given.
    """

    root: str
    objects: Mapping[str, bytes]
    tree: bytes | None = None

    @property
    def size(self) -> int:
        """The number of bytes of all objects, their ids and the tree."""
        parts = sum(len(key) + len(content) for key, content in self.objects.items())
        return parts + len(self.tree or b"")


Reply = Message | UploadedReply
Replies = Callable[[AnswerContext], Sequence[Reply]]


@dataclass(frozen=True)
class CatalogueRow:
    """One hostile behaviour of a client.

    Parameters
    ----------
    name : str
        Name in kebab-case.
    behaviour : str
        Short description, with the client as its subject.
    expected : str
        The beginning of the reason for which ``HQDEStrategy`` drops the client: ``rejected: ...``
        (by screening), ``failed`` (an error reply) or ``late`` (no reply that counts as its
        answer). Empty if screening accepts the reply, which is harmless or left to the rule.
    replies : Callable[[AnswerContext], Sequence[Reply]]
        Returns the replies that the client sends.
    request : {"train", "evaluate"}, default="train"
        Kind of message that the client answers like this; it answers the other kind honestly.
    codec : bool, default=False
        True if the row is about packed updates or models, which only hqde-fl reads.
    """

    name: str
    behaviour: str
    expected: str
    replies: Replies
    request: RequestKind = "train"
    codec: bool = False
