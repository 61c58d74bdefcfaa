"""Address to each node the model, or its members of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from hqde_fl.protocol.control_variates import CONTROL, control_arrays
from hqde_fl.protocol.held_entries import HELD_ENTRIES, HELD_MASK, without_held
from hqde_fl.protocol.members import MEMBERS, TAG, add_member_prefix, uncopied_record
from hqde_fl.protocol.message_roles import UNSETTLED, role_config
from hqde_fl.protocol.partial_work import WORK
from hqde_fl.strategies.clients_model import Content
from hqde_fl.strategies.holdings import Holdings
from hqde_fl.strategies.state import ModelState

Assignments = Mapping[int, tuple[int, ...]]
"""Node -> the members that it trains, ascending; (0,) where there is one model."""

Tags = Mapping[int, int]
"""Member -> tag that comes back with its update. All clients of a round get the same tags, so that
those with the same members can share one message. Empty where there is one model."""


def contents(
    models: Sequence[ModelState], assignments: Assignments, config: ConfigRecord, tags: Tags
) -> list[Content]:
    """Return the arrays and the config for each node, in the order of the assignments.

    The arrays are those of the node's members, in full or as differences to the version that it
    holds; ``config`` is part of every config. With ``tags`` both carry the members' names, and the
    config lists members and tags; without, there is one model. Nodes that get the same content
    share the same two objects.
    """
    parts: dict[_AddressedModel, Content] = {}
    shared: dict[tuple[_AddressedModel, ...], Content] = {}
    of_nodes = []
    for node, members in assignments.items():
        keys = tuple(_AddressedModel.of(member, models[member], node) for member in members)
        for key in keys:
            if key not in parts:
                parts[key] = key.content(models[key.member])
        if keys not in shared:
            by_member = {key.member: parts[key] for key in keys}
            shared[keys] = (
                _joined(by_member, config, tags) if tags else _with_config(by_member[0], config)
            )
        of_nodes.append(shared[keys])
    return of_nodes


@dataclass(frozen=True)
class _AddressedModel:
    """The arrays and config of one model that a node is sent.

    Parameters
    ----------
    member : int
        The member; 0 where there is one model.
    behind : int
        Number of payloads to send, 0 for the model in full.
    held : str or None
        Digest of the set of entries that the node says it holds; these are left out.
    """

    member: int
    behind: int
    held: str | None

    @classmethod
    def of(cls, member: int, model: ModelState, node: int) -> _AddressedModel:
        """Return what a node gets of a model."""
        behind = 0 if model.broadcast is None else model.broadcast.payloads_behind(node)
        return cls(member, behind, model.holdings.digest_of(node))

    def content(self, model: ModelState) -> Content:
        """Return arrays and config; the config tells the roles of the model's entries."""
        arrays, config = model.record, ConfigRecord()
        if model.broadcast is not None:
            arrays, config = model.broadcast.content(self.behind)
        config.update(role_config(model.layout))
        if model.layout.inferred and not model.settled:
            config[UNSETTLED] = True
        return leave_out_held(arrays, config, model.holdings, self.held)


def leave_out_held(
    arrays: ArrayRecord, config: ConfigRecord, holdings: Holdings, held: str | None
) -> Content:
    """Return arrays without those that a node says it holds, and the config that names these.

    Parameters
    ----------
    arrays : ArrayRecord
        A model's arrays.
    config : ConfigRecord
        Their config; not changed.
    holdings : Holdings
        Knows what is in a set of entries.
    held : str or None
        Digest of the set that the node holds; None if it holds nothing.
    """
    if held is None:
        return arrays, config
    left, mask = without_held(arrays, holdings.manifest(held))
    if len(left) == len(arrays):
        return arrays, config
    config = ConfigRecord({**config, HELD_ENTRIES: held})
    if mask is not None:
        config[HELD_MASK] = mask
    return uncopied_record(left), config


def address(
    nodes: Sequence[int],
    contents: Sequence[Content],
    keys: tuple[str, str],
    server_round: int,
    kind: str,
    work: Mapping[int, float] | None = None,
    controls: Sequence[ArrayRecord] = (),
) -> list[Message]:
    """Return one message for each node; those with the same arrays share one read-only content.

    So do only nodes that do the same part of their local training.

    Parameters
    ----------
    nodes : Sequence[int]
        Ids of the nodes.
    contents : Sequence[Content]
        Arrays and config for each of them.
    keys : tuple[str, str]
        Names of the ``ArrayRecord`` and of the ``ConfigRecord`` in the message.
    server_round : int
        The round; the config holds it as ``server-round``.
    kind : str
        Type of the message, such as ``MessageType.TRAIN``.
    work : Mapping[int, float], optional
        Node -> the part of its local training that it does; the others do all of it.
    controls : Sequence[ArrayRecord]
        The server's control variates for each of the nodes, the same for the same arrays; empty
        without SCAFFOLD.
    """
    shared: dict[tuple[int, float], RecordDict] = {}
    messages, group = [], str(server_round)
    for place, (node, (arrays, config)) in enumerate(zip(nodes, contents, strict=True)):
        part = 1.0 if work is None else work.get(node, 1.0)
        if (key := (id(arrays), part)) not in shared:
            config = ConfigRecord({**config, "server-round": server_round})
            if part < 1:
                config[WORK] = part
            shared[key] = RecordDict({keys[0]: arrays, keys[1]: config})
            if controls:
                shared[key][CONTROL] = controls[place]
        messages.append(Message(shared[key], node, kind, group_id=group))
    return messages


def control_records(
    models: Sequence[ModelState], assignments: Assignments, tags: Tags
) -> list[ArrayRecord]:
    """Return the server's control variates of each node's members; empty without SCAFFOLD.

    Nodes with the same members share a record. With ``tags`` there are members.
    """
    if any(model.control is None for model in models):
        return []
    shared: dict[tuple[int, ...], ArrayRecord] = {}
    for members in assignments.values():
        if members in shared:
            continue
        arrays: dict[str, Array] = {}
        for member in members:
            model = models[member]
            assert model.control is not None
            name = member if tags else None
            arrays |= control_arrays(model.layout, model.control.vector, name)
        shared[members] = uncopied_record(arrays)
    return [shared[members] for members in assignments.values()]


def _with_config(content: Content, config: ConfigRecord) -> Content:
    arrays, member_config = content
    return arrays, ConfigRecord({**config, **member_config})


def _joined(by_member: Mapping[int, Content], config: ConfigRecord, tags: Tags) -> Content:
    """Return the members' arrays and configs under their names, with ``config``, list and tags."""
    arrays: dict[str, Array] = {}
    joined = ConfigRecord({**config, MEMBERS: list(by_member)})
    for member, (record, member_config) in by_member.items():
        arrays |= add_member_prefix(member, record)
        joined.update(add_member_prefix(member, {**member_config, TAG: tags[member]}))
    return uncopied_record(arrays), joined
