"""Changes of the roles of a model's entries that clients' replies give reason for.

Roles that are only inferred are settled by the first round: a weight that no client changed is
frozen, and two weights with equal bits and equal updates are tied. Any accepted change ends that.
Roles that are known end only if more clients change an entry than the rule tolerates as faulty, as
in gradual unfreezing; a reply that changes it alone is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hqde_fl.protocol.omitted_entries import same_bits
from hqde_fl.protocol.screening import Accepted, SentModel
from hqde_fl.strategies.state import ModelState
from hqde_fl.updates.layout import Entry, Layout, to_numbers
from hqde_fl.updates.received_updates import ReceivedModel
from hqde_fl.updates.roles import Role, is_floating

Replies = Mapping[int, Accepted]
"""Node id -> the update that passed screening."""


@dataclass(frozen=True, eq=False)
class RoleChanges:
    """A model with the roles of its entries as a round's replies show them.

    Parameters
    ----------
    model : ModelState
        The model.
    replies : Replies
        The replies, in terms of the model's layout.
    rejected : Mapping[int, str]
        Node id -> name of an entry that the node changed and should not; these are not in
        ``replies``.
    changes : Sequence[str]
        Sentences that name the entries with a new role.
    """

    model: ModelState
    replies: Replies
    rejected: Mapping[int, str] = field(default_factory=dict)
    changes: Sequence[str] = ()


def apply_role_changes(
    model: ModelState, replies: Replies, tolerated: int, needed: int = 1
) -> RoleChanges:
    """Return the model and the replies after all changes of roles.

    Parameters
    ----------
    model : ModelState
        The model as the round began.
    replies : Replies
        The replies that passed screening.
    tolerated : int
        Number of clients that may be faulty: as many cannot end a role that is known.
    needed : int
        Number of replies without which the round is void, and settles no inferred role.
    """
    thawed, rejected = _ended_roles(model.layout, replies, tolerated)
    kept = {node: reply for node, reply in replies.items() if node not in rejected}
    changes = []
    if thawed:
        layout = _thawed_layout(model.layout, thawed)
        model, kept = _with_layout(model, kept, layout)
        changes.append(f"clients change {_listed(thawed)}, which nobody did before")
    if len(kept) >= max(1, needed) and model.layout.inferred and not model.settled:
        frozen = _unchanged(model.sent, list(kept.values()))
        if len(frozen) == len(model.layout.weights):  # nobody has trained yet
            return RoleChanges(model, kept, rejected, changes)
        tied = _equal_weights(model.sent, list(kept.values()), frozen)
        if frozen or tied:
            roles: dict[str, Role] = dict.fromkeys(frozen, "frozen")
            layout = model.layout.with_roles(roles, tied)
            model, kept = _with_layout(model, kept, layout)
        if frozen:
            changes.append(f"nobody trains {_listed(frozen)}: frozen until someone does")
        model = replace(model, settled=True)
    return RoleChanges(model, kept, rejected, changes)


def _ended_roles(
    layout: Layout, replies: Replies, tolerated: int
) -> tuple[list[str], dict[int, str]]:
    """Return the entries whose role has ended, and node -> an entry that it should not change."""
    changers: dict[str, list[int]] = {}
    for node, reply in replies.items():
        for name in reply.changed:
            changers.setdefault(name, []).append(node)
    ended = [n for n, nodes in changers.items() if layout.inferred or len(nodes) > tolerated]
    rejected = {n: name for name, nodes in changers.items() if name not in ended for n in nodes}
    return ended, rejected


def _thawed_layout(layout: Layout, names: Sequence[str]) -> Layout:
    """Return the layout in which some frozen or tied entries are neither any more."""
    roles: dict[str, Role] = {}
    tied: dict[str, str | None] = {}
    for name in names:
        entry = layout.by_name[name]
        if entry.tied_to is not None:
            tied[name] = None
        if entry.role == "frozen":
            roles[name] = _thawed_role(entry)
    return layout.with_roles(roles, tied)


def _thawed_role(entry: Entry) -> Role:
    if entry.buffer or not is_floating(entry.dtype):
        return "statistics" if is_floating(entry.dtype) else "counters"
    return "trainable"


def _with_layout(
    model: ModelState, replies: Replies, layout: Layout
) -> tuple[ModelState, dict[int, Accepted]]:
    """Return a model and the replies about it with other roles of its entries."""
    before, after = model.sent, model.with_layout(layout)
    return after, {node: _relaid(reply, before, after.sent) for node, reply in replies.items()}


def _relaid(reply: Accepted, before: SentModel, after: SentModel) -> Accepted:
    """Return a reply in terms of another layout of the same model."""
    others = {
        entry.name: _own(reply, before, entry.name, after.others)
        for entry in after.layout.others
        if entry.role != "frozen"
    }
    still = {
        name: value
        for name, value in reply.changed.items()
        if after.layout.by_name[name].role == "frozen" or after.layout.by_name[name].tied_to
    }
    return replace(reply, update=_relaid_update(reply, before, after), others=others, changed=still)


def _own(reply: Accepted, before: SentModel, name: str, default: Mapping[str, Tensor]) -> Tensor:
    """Return an entry that was no weight as the client sent it, under this name or its first."""
    sent = {**reply.others, **reply.changed}
    first = before.layout.by_name[name].tied_to or name
    candidates = [
        values[key] for values in (sent, default) for key in (name, first) if key in values
    ]
    return candidates[0]


def _relaid_update(reply: Accepted, before: SentModel, after: SentModel) -> Tensor | ReceivedModel:
    update, layout = reply.update, after.layout
    if isinstance(update, ReceivedModel) and layout.dtype == torch.float32:
        names = [entry.name for entry in before.layout.weights]
        parts = dict(zip(names, update.parts, strict=True))
        for entry in layout.weights:
            if entry.name in parts:
                continue
            tied_to = before.layout.by_name[entry.name].tied_to
            if tied_to in parts and entry.name not in reply.changed:
                parts[entry.name] = parts[tied_to]
            else:
                own = _own(reply, before, entry.name, before.others)
                parts[entry.name] = to_numbers(own).float().numpy()
        return ReceivedModel(tuple(parts[entry.name] for entry in layout.weights), after.flat)
    delta, flat = reply.delta, torch.zeros(layout.size, dtype=layout.dtype)
    for entry in layout.weights:
        old = before.layout.by_name[entry.name]
        first = before.layout.by_name[old.tied_to or entry.name]
        if first.offset is not None and entry.name not in reply.changed:
            flat[entry.span] = delta[first.span].to(layout.dtype)
        else:
            own = to_numbers(_own(reply, before, entry.name, before.others)).to(layout.dtype)
            flat[entry.span] = own - after.flat[entry.span]
    return flat


def _numbers(reply: Accepted, sent: SentModel, index: int) -> npt.NDArray[Any]:
    """Return a client's numbers of one weight: the weight as it sent it, or else the update."""
    update = reply.update
    if isinstance(update, ReceivedModel):
        return update.parts[index]
    return reply.delta[sent.layout.weights[index].span].numpy()


def _unchanged(sent: SentModel, replies: Sequence[Accepted]) -> list[str]:
    """Return the names of the weights that no client changed."""
    unchanged = dict(enumerate(sent.layout.weights))
    for reply in replies:
        for index, entry in list(unchanged.items()):
            is_model = isinstance(reply.update, ReceivedModel)
            before = sent.flat[entry.span].numpy() if is_model else 0
            if (_numbers(reply, sent, index) != before).any():
                del unchanged[index]
    return [entry.name for entry in unchanged.values()]


def _equal_weights(
    sent: SentModel, replies: Sequence[Accepted], without: Sequence[str]
) -> dict[str, str]:
    """Return name -> first name of weights with equal bits in the model and in every reply."""
    first: dict[tuple[object, ...], list[int]] = {}
    tied: dict[str, str] = {}
    weights = sent.layout.weights
    for index, entry in enumerate(weights):
        if entry.name in without or not entry.numbers:
            continue
        candidates = first.setdefault((entry.shape, entry.dtype), [])
        for other in candidates:
            own = sent.flat[entry.span]
            if same_bits(own, sent.flat[weights[other].span]) and all(
                np.array_equal(_numbers(reply, sent, index), _numbers(reply, sent, other))
                for reply in replies
            ):
                tied[entry.name] = weights[other].name
                break
        else:
            candidates.append(index)
    return tied


def _listed(names: Sequence[str]) -> str:
    """Return text with the first three names, and how many others there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
