"""A message as the objects that travel in a deployment, and back as Flower's own Grid does it."""

from __future__ import annotations

from typing import cast

from flwr.app import Message

from hqde_fl.simulations.audit.row import Wire
from hqde_fl.simulations.engines.flower_internals import (
    ObjectTree,
    get_all_nested_objects,
    inflate_object_from_contents,
    iterate_object_tree,
    no_object_id_recompute,
)


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
