"""Screen a reply with several members: each must be the member that it is named after.

A client trains some members, each of which carries a tag. A reply must hold those members and no
others, each under its own tag. Members whose contents were swapped under the right names and tags
are detected where each is much nearer to the other's model than to its own. This needs full weights
of members that differ by more than a training step; a swap of packed updates, or of members that
are almost the same, looks like an unusual update and is left to the rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from flwr.app import Message

from hqde_fl.protocol.members import TAG, TAGS, member_name, select_member, select_member_reply
from hqde_fl.protocol.omitted_entries import ENTRIES
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, screen
from hqde_fl.strategies.round.outgoing import Tags
from hqde_fl.strategies.state import ModelState

SWAP_DISTANCE_RATIO = 0.25
"""Members count as swapped if their squared distances to each other's models sum to less than this
fraction of those to their own models."""

MAX_SAMPLED_NUMBERS = 1 << 16
"""Most numbers of a model that are compared, evenly spread over it."""

_NAME = re.compile(r"member-(0|[1-9][0-9]{0,8})/(.+)", re.DOTALL)


def screen_members(
    reply: Message,
    models: Sequence[ModelState],
    assigned: Sequence[int],
    tags: Tags,
    limits: Screening,
    key: str,
) -> dict[int, Accepted] | Rejected:
    """Screen one reply to a training message with several members. No content makes it raise.

    Parameters
    ----------
    reply : Message
        The reply, hostile until proven otherwise.
    models : Sequence[ModelState]
        All members of the ensemble.
    assigned : Sequence[int]
        The members that the client trains.
    tags : Tags
        The members' tags.
    limits : Screening
        Limits on the content of a reply.
    key : str
        Name of the reply's one ``ArrayRecord``.

    Returns
    -------
    dict[int, Accepted] or Rejected
        The update of each member, or why the whole reply is rejected.
    """
    first = models[assigned[0]]
    if list(reply.content.array_records) != [key]:
        screened = screen(reply, first.sent, limits, key)
        return screened if isinstance(screened, Rejected) else Rejected(f"expected one {key!r}")
    names = list(reply.content.array_records[key])
    names += reply.content.config_records.get(ENTRIES, ())  # all of a member may be unchanged
    if reason := _member_error(names, assigned):
        return Rejected(reason)
    if reason := _tag_error(reply, assigned, tags):
        return Rejected(reason)
    accepted = {}
    for member in assigned:
        model = models[member]
        member_reply = select_member_reply(member, reply, key)
        part = screen(member_reply, model.sent, limits, key, member)
        if isinstance(part, Rejected):
            return Rejected(f"{member_name(member)}: {part.reason}")
        accepted[member] = part
    if reason := _swap_error(accepted, models):
        return Rejected(reason)
    return accepted


def _member_error(names: Sequence[str], assigned: Sequence[int]) -> str | None:
    returned = set()
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            return f"unknown array {name[:40]!r}"
        returned.add(int(match[1]))
    if extra := sorted(returned.difference(assigned)):
        return f"returned a member it was not given: {member_name(extra[0])}"
    if missing := sorted(set(assigned) - returned):
        return f"returned nothing of {member_name(missing[0])}"
    return None


def _tag_error(reply: Message, assigned: Sequence[int], tags: Tags) -> str | None:
    record = reply.content.config_records.get(TAGS)
    for member in assigned:
        tag = None if record is None else select_member(member, record).get(TAG)
        if tag == tags[member] and type(tag) is int:
            continue
        for other in assigned:
            if tag == tags[other]:
                return f"{member_name(member)} came back under the tag of {member_name(other)}"
        return f"{member_name(member)} came back without its tag"
    return None


def _swap_error(accepted: Mapping[int, Accepted], models: Sequence[ModelState]) -> str | None:
    """Return a text that names the members returned in each other's place; None without a swap.

    Members count as swapped if their squared distances to each other's models sum to less than
    ``SWAP_DISTANCE_RATIO`` times those to their own models.
    """
    members = [m for m in accepted if models[m].layout == models[min(accepted)].layout]
    if len(members) < 2:
        return None
    step = -(-models[members[0]].layout.size // MAX_SAMPLED_NUMBERS)
    starts = torch.stack([models[member].origin[::step] for member in members]).double()
    ends = starts + torch.stack([accepted[member].delta[::step] for member in members])
    squared = torch.stack([(starts - end).square().sum(dim=1) for end in ends])
    nearest = squared.argmin(dim=1).tolist()
    swapped = [place for place, other in enumerate(nearest) if other != place]
    if not swapped or len(set(nearest)) < len(nearest):
        return None
    to_other = sum(float(squared[place, nearest[place]]) for place in swapped)
    to_own = sum(float(squared[place, place]) for place in swapped)
    if to_other >= SWAP_DISTANCE_RATIO * to_own:
        return None
    names = " and ".join(member_name(members[place]) for place in swapped)
    return f"{names} came back in each other's place"
