"""Conversion of messages to the objects that a deployment uploads, and back."""

from __future__ import annotations

from typing import cast

from flwr.app import Message

from hqde_fl.simulations.audit.catalogue_row import UploadedReply
from hqde_fl.simulations.engines.flower_internals import (
    ObjectTree,
    get_all_nested_objects,
    inflate_object_from_contents,
    iterate_object_tree,
    no_object_id_recompute,
)


def to_objects(message: Message) -> UploadedReply:
    """Split a message into the objects that a deployment uploads."""
    with no_object_id_recompute():
        objects = {key: part.deflate() for key, part in get_all_nested_objects(message).items()}
        return UploadedReply(message.object_id, objects)


def from_objects(upload: UploadedReply) -> Message:
    """Assemble a message from uploaded objects, without checks, as Flower's own Grid does."""
    if upload.tree is not None:
        list(iterate_object_tree(ObjectTree.FromString(upload.tree)))
    return cast(Message, inflate_object_from_contents(upload.root, dict(upload.objects)))
