"""Entries: models of which the server sends, and clients return, only what the other end lacks."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.entry_cache import EntryCache
from hqde_fl.clients.message_fields import array_record, is_training
from hqde_fl.protocol.held_entries import (
    HASH,
    HELD_ENTRIES,
    HELD_MASK,
    MISSING,
    Manifest,
    equal_arrays,
    with_held,
)
from hqde_fl.protocol.members import (
    add_member_prefix,
    config_value,
    member_name,
    message_config,
    records_of,
    requested_members,
    select_member,
    uncopied_record,
)
from hqde_fl.protocol.message_roles import ROLES, TIED
from hqde_fl.protocol.npy import MalformedError
from hqde_fl.protocol.omitted_entries import (
    ENTRIES,
    LEAVE_OUT,
    UNCHANGED,
    mask_of,
    omitted_entries,
)

_MEMBER = re.compile(r"member-(\d+)/")


@final
@dataclass(frozen=True)
class HeldEntriesMod:
    """A Flower mod that fills in the entries which the server left out because the node holds them.

    It must be the outermost mod: those inside then see all that the server sent. Entries come from
    the node's cache (see ``EntryCache``). If one is not there, the client does not run: it replies
    that it lacks entries, and the server then sends the full model.
    """

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Fill in the entries of a message's models; pass on a message that lacks none."""
        config = message_config(message)
        held = [key for key in config if _names_held(key, config)]
        if not held or len(records_of(message.content, ArrayRecord)) != 1:
            return call_next(message, context)
        name, record = array_record(message)
        members = None if HELD_ENTRIES in held else _members([*record, *held])
        models = _filled_in(record, config, members, EntryCache.of(context))
        if models is None:
            lacking = RecordDict({ENTRIES: ConfigRecord({MISSING: 1})})
            return Message(lacking, reply_to=message)
        full = copy.copy(message)
        full.content = RecordDict(dict(message.content))
        full.content[name] = uncopied_record(models)
        return call_next(full, context)


@final
@dataclass(frozen=True)
class UnchangedEntriesMod:
    """A Flower mod that leaves out of a reply the entries which the server has.

    These are the entries with the bits that the client was sent, which the reply lists in a record,
    and second names of one tensor. Only replies to training messages that allow it are changed:
    other servers expect all entries. The unchanged entries are stored in the node's
    cache, if it has one, and the reply says so.

    It belongs inside of the mods that complete what the server sent, and outside of all others.
    """

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Leave entries out of the reply to a training message; pass on any other message."""
        models = _sent_models(message)
        if not models:
            return call_next(message, context)
        reply = call_next(message, context)
        if reply.has_error() or len(records_of(reply.content, ArrayRecord)) != 1:
            return reply
        name, trained = array_record(reply)
        cache = EntryCache.of(context)
        out: set[str] = set()
        told = ConfigRecord({**records_of(reply.content, ConfigRecord).get(ENTRIES, {})})
        for member, model in models.items():
            prefix = "" if member is None else f"{member_name(member)}/"
            try:  # a codec inside may have left out some of them
                absent = omitted_entries(reply.content, list(model.arrays), member).unchanged
            except MalformedError:
                return reply
            unchanged = model.unchanged(trained, prefix)
            out.update(prefix + name for name in unchanged | model.repeated(trained, prefix))
            values = model.report(unchanged | absent, cache)
            told.update(values if member is None else add_member_prefix(member, values))
        if not out and not told:
            return reply
        content = RecordDict(dict(reply.content))
        content[name] = uncopied_record({n: a for n, a in trained.items() if n not in out})
        if told:
            content[ENTRIES] = told
        return Message(content, reply_to=message)


@dataclass(frozen=True, eq=False)
class _SentModel:
    """A model as the client was sent it.

    Parameters
    ----------
    arrays : Mapping[str, Array]
        Its arrays by name.
    tied : Mapping[str, str]
        Name -> the first name of the same tensor.
    """

    arrays: Mapping[str, Array]
    tied: Mapping[str, str]

    def unchanged(self, trained: Mapping[str, Array], prefix: str) -> set[str]:
        """Return the names of the entries that are in a reply, below a prefix, as they were."""
        return {
            name
            for name, array in self.arrays.items()
            if prefix + name in trained and equal_arrays(array, trained[prefix + name])
        }

    def repeated(self, trained: Mapping[str, Array], prefix: str) -> set[str]:
        """Return the names of the entries that are in a reply like their tensors' first names."""
        return {
            name
            for name, first in self.tied.items()
            if prefix + name in trained
            and prefix + first in trained
            and equal_arrays(trained[prefix + name], trained[prefix + first])
        }

    def report(self, unchanged: set[str], cache: EntryCache | None) -> dict[str, str | bytes]:
        """Return what a reply says of the unchanged entries, which are stored if possible."""
        if not unchanged:
            return {}
        values: dict[str, str | bytes] = {UNCHANGED: mask_of(unchanged, self.arrays)}
        if cache is not None:
            manifest = Manifest.of(self.arrays, unchanged)
            if cache.store(manifest, self.arrays):
                values[HELD_ENTRIES] = manifest.digest
        return values


def _sent_models(message: Message) -> dict[int | None, _SentModel]:
    """Return member -> model in a training message that tells roles; empty for any other.

    The member is None where there is one model.
    """
    if not is_training(message) or config_value(message, LEAVE_OUT, bool) is not True:
        return {}
    if len(records_of(message.content, ArrayRecord)) != 1:
        return {}
    config, (_, record) = message_config(message), array_record(message)
    members = requested_members(message)
    models: dict[int | None, _SentModel] = {}
    for member in [None] if members is None else members:
        arrays = dict(record) if member is None else select_member(member, record)
        own = config if member is None else select_member(member, config)
        if _tells_roles(own.get(ROLES), len(arrays)):
            models[member] = _SentModel(arrays, _tied_names(own.get(TIED), list(arrays)))
    return models


def _tied_names(pairs: object, names: list[str]) -> dict[str, str]:
    """Return name -> first name of the same tensor, from ``Layout.tied_pairs``."""
    if not isinstance(pairs, list):
        return {}
    return {names[p]: names[first] for p, first in zip(pairs[::2], pairs[1::2], strict=True)}


def _tells_roles(codes: object, entries: int) -> bool:
    """Return True for the codes of a layout; another server may mean something else."""
    return isinstance(codes, str) and len(codes) == entries and set(codes) <= set("tscfb")


def _names_held(key: str, config: ConfigRecord) -> bool:
    """Return True if a key of a config is that of a manifest's digest."""
    value = config[key]
    named = key.rpartition("/")[2] == HELD_ENTRIES
    return named and isinstance(value, str) and HASH.fullmatch(value) is not None


def _members(keys: Iterable[str]) -> list[int]:
    """Return the members that names and keys of a message are of, ascending."""
    return sorted({int(match[1]) for key in keys if (match := _MEMBER.match(key))})


def _filled_in(
    record: ArrayRecord,
    config: ConfigRecord,
    members: list[int] | None,
    cache: EntryCache | None,
) -> dict[str, Array] | None:
    """Return the arrays of a message, with those of each member that were left out.

    None if the node lacks one of them. ``members`` is None where there is one model.
    """
    if members is None:
        return _complete(dict(record), config, cache)
    filled: dict[str, Array] = {}
    for member in members:
        arrays = select_member(member, record)
        complete = _complete(arrays, select_member(member, config), cache)
        if complete is None:
            return None
        filled |= add_member_prefix(member, complete)
    return filled | {name: array for name, array in record.items() if name not in filled}


def _complete(
    arrays: dict[str, Array], config: Mapping[str, object], cache: EntryCache | None
) -> dict[str, Array] | None:
    """Return a model's arrays with those that were left out; None if the node lacks one."""
    digest, mask = config.get(HELD_ENTRIES), config.get(HELD_MASK)
    if not isinstance(digest, str):
        return arrays
    if cache is None:
        return None
    manifest = cache.manifest(digest)
    if manifest is None:
        return None
    try:
        return with_held(arrays, manifest, mask if isinstance(mask, bytes) else None, cache.array)
    except MalformedError:
        return None
