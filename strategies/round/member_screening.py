"""Screening of a reply with several members: whether each is what it is called.

A client is given some members, each with a tag that travels with it. What comes back must be those
members and no others, each under its own tag. Contents that were exchanged under the right names
and tags are told as far as they can be: where each is much nearer to what the other member was than
to what its own was. That needs full weights of members that differ by more than training moves
them; an exchange of packed updates, or of members that are almost the same, cannot be told from an
unusual update, and is left to the rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from flwr.app import Message

from hqde_fl.protocol.members import TAG, TAGS, member_name, of_member, reply_of
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, screen
from hqde_fl.strategies.round.outgoing import Tags
from hqde_fl.strategies.state import ModelState

MUCH_NEARER = 0.25
"""Contents count as exchanged if that would make all squared distances together so much less."""

SAMPLE = 1 << 16
"""Numbers of a model that are looked at for that, spread over all of it."""

_NAME = re.compile(r"member-(0|[1-9][0-9]{0,8})/(.+)", re.DOTALL)


def screen_share(
    reply: Message,
    models: Sequence[ModelState],
    share: Sequence[int],
    tags: Tags,
    limits: Screening,
    key: str,
) -> dict[int, Accepted] | Rejected:
    """Look at one reply to a training message about some members. Never raises for what was sent.

    Parameters
    ----------
    reply : Message
        The reply, hostile until proven otherwise.
    models : Sequence[ModelState]
        All members.
    share : Sequence[int]
        The members that the client was given.
    tags : Tags
        The members' tags.
    limits : Screening
        What is allowed.
    key : str
        The name of the reply's one ``ArrayRecord``.

    Returns
    -------
    dict[int, Accepted] or Rejected
        The update of each member, or why none of them is taken.
    """
    first = models[share[0]]
    if list(reply.content.array_records) != [key]:
        found = screen(reply, first.layout, first.origin, limits, key)
        return found if isinstance(found, Rejected) else Rejected(f"expected one {key!r}")
    if wrong := _wrong_members(list(reply.content.array_records[key]), share):
        return Rejected(wrong)
    if wrong := _wrong_tag(reply, share, tags):
        return Rejected(wrong)
    accepted = {}
    for member in share:
        model = models[member]
        part = screen(reply_of(member, reply, key), model.layout, model.origin, limits, key)
        if isinstance(part, Rejected):
            return Rejected(f"{member_name(member)}: {part.reason}")
        accepted[member] = part
    if wrong := _exchanged(accepted, models):
        return Rejected(wrong)
    return accepted


def _wrong_members(names: Sequence[str], share: Sequence[int]) -> str | None:
    returned = set()
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            return f"unknown array {name[:40]!r}"
        returned.add(int(match[1]))
    if extra := sorted(returned.difference(share)):
        return f"returned a member it was not given: {member_name(extra[0])}"
    if missing := sorted(set(share) - returned):
        return f"returned nothing of {member_name(missing[0])}"
    return None


def _wrong_tag(reply: Message, share: Sequence[int], tags: Tags) -> str | None:
    record = reply.content.config_records.get(TAGS)
    for member in share:
        tag = None if record is None else of_member(member, record).get(TAG)
        if tag == tags[member] and type(tag) is int:
            continue
        for other in share:
            if tag == tags[other]:
                return f"{member_name(member)} came back under the tag of {member_name(other)}"
        return f"{member_name(member)} came back without its tag"
    return None


def _exchanged(accepted: Mapping[int, Accepted], models: Sequence[ModelState]) -> str | None:
    """Whether the members' contents are in each other's places."""
    members = [m for m in accepted if models[m].layout == models[min(accepted)].layout]
    if len(members) < 2:
        return None
    step = -(-models[members[0]].layout.size // SAMPLE)
    starts = torch.stack([models[member].origin[::step] for member in members]).double()
    ends = starts + torch.stack([accepted[member].delta[::step] for member in members])
    squared = torch.stack([(starts - end).square().sum(dim=1) for end in ends])
    nearest = squared.argmin(dim=1).tolist()
    moved = [place for place, other in enumerate(nearest) if other != place]
    if not moved or len(set(nearest)) < len(nearest):
        return None
    there = sum(float(squared[place, nearest[place]]) for place in moved)
    here = sum(float(squared[place, place]) for place in moved)
    if there >= MUCH_NEARER * here:
        return None
    names = " and ".join(member_name(members[place]) for place in moved)
    return f"{names} came back in each other's place"
