"""A message as the objects that travel in a deployment, and back as Flower's own Grid does it."""

from __future__ import annotations

from typing import cast

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from hqde_fl.simulations.audit.row import Wire


def to_wire(message: Message) -> Wire:
    """Take a message apart."""
    with no_object_id_recompute():
        objects = {key: each.deflate() for key, each in get_all_nested_objects(message).items()}
        return Wire(message.object_id, objects)


def from_wire(wire: Wire) -> Message:
    """Put a message together, as trusting as Flower."""
    if wire.tree is not None:
        list(iterate_object_tree(ObjectTree.FromString(wire.tree)))
    return cast(Message, inflate_object_from_contents(wire.root, dict(wire.objects)))
