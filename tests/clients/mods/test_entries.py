"""Tests of the mods that complete what the server sent, and leave out what it has."""

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from hqde_fl.clients import entry_cache
from hqde_fl.clients.cache_location import CACHE_DIR, CACHE_VARIABLE
from hqde_fl.clients.entry_cache import EntryCache
from hqde_fl.clients.mods import entries as entries_module
from hqde_fl.clients.mods.entries import HeldEntriesMod, UnchangedEntriesMod
from hqde_fl.protocol.held_entries import (
    HELD_ENTRIES,
    HELD_MASK,
    MISSING,
    Manifest,
    claimed_digest,
    equal_arrays,
    lacks_entries,
    without_held,
)
from hqde_fl.protocol.members import MEMBERS, add_member_prefix
from hqde_fl.protocol.message_roles import role_config
from hqde_fl.protocol.omitted_entries import (
    ENTRIES,
    LEAVE_OUT,
    SAME,
    UNCHANGED,
    mask_of,
    names_in,
    omitted_entries,
)
from hqde_fl.protocol.records import layout_of, to_record
from hqde_fl.updates.roles import Roles

NAMES = ["backbone", "embedding", "adapter", "head", "steps"]
ROLES = Roles(
    {"backbone": "frozen", "adapter": "trainable", "steps": "counters"}, {"head": "embedding"}
)


def model(adapter=0.0, tied=1.0):
    """Return a model's arrays; the head is another name of the embedding."""
    state = {
        "backbone": torch.full((2000,), 3.0),
        "embedding": torch.full((50, 4), tied),
        "adapter": torch.full((8,), adapter),
        "head": torch.full((50, 4), tied),
        "steps": torch.tensor(4),
    }
    return dict(to_record(state))


def roles(arrays=None):
    return role_config(layout_of(arrays or model(), ROLES))


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def node(tmp_path):
    """A node with a cache, which is empty at first."""
    return Context(1, 1, {CACHE_DIR: str(tmp_path / "cache")}, RecordDict(), {})


@pytest.fixture
def bare():
    """A node without a cache."""
    return Context(1, 1, {}, RecordDict(), {})


def message(arrays, config, kind="train"):
    config = ConfigRecord({LEAVE_OUT: True, **config})
    content = {"arrays": ArrayRecord(dict(arrays)), "config": config}
    return Message(RecordDict(content), 1, kind)


def run(sent, context, result=None, *, codec=None):
    """Return the arrays that a client saw and its reply: to train is to return ``result``."""
    seen = []
    app = ClientApp(mods=[HeldEntriesMod(), UnchangedEntriesMod()])

    @app.train()
    def train(received, context):
        seen.append(received.content["arrays"])
        content = RecordDict({"arrays": ArrayRecord(dict(result or received.content["arrays"]))})
        if codec is not None:
            content[ENTRIES] = ConfigRecord(codec)
        return Message(content, reply_to=received)

    @app.evaluate()
    def evaluate(received, context):
        return train(received, context)

    reply = app(sent, context)
    return (dict(seen[0]) if seen else None), reply


def unchanged(reply, member=None):
    return omitted_entries(reply.content, NAMES, member).unchanged


def same(one, other):
    return list(one) == list(other) and all(equal_arrays(one[name], other[name]) for name in one)


def test_what_a_client_did_not_change_is_left_out_and_listed(node):
    _, reply = run(message(model(), roles()), node, model(adapter=1.0))
    assert list(reply.content["arrays"]) == ["adapter"]
    assert unchanged(reply) == {"backbone", "embedding", "head", "steps"}
    manifest = Manifest.of(model(), unchanged(reply))
    assert claimed_digest(reply.content) == manifest.digest
    assert EntryCache.of(node).manifest(manifest.digest) == manifest


def test_the_next_message_is_completed_from_the_cache(node):
    _, reply = run(message(model(), roles()), node, model(adapter=1.0))
    manifest = Manifest.of(model(), unchanged(reply))
    left, mask = without_held(model(adapter=2.0), manifest)
    assert (list(left), mask) == (["adapter"], None)
    config = {**roles(), HELD_ENTRIES: manifest.digest}
    seen, again = run(message(left, config), node, model(adapter=3.0))
    assert same(seen, model(adapter=2.0))
    assert claimed_digest(again.content) == manifest.digest
    assert list(again.content["arrays"]) == ["adapter"]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_only_what_is_still_valid_is_filled_in(node, kind):
    _, reply = run(message(model(), roles()), node, model(adapter=1.0))
    manifest = Manifest.of(model(), unchanged(reply))
    now = model(adapter=2.0, tied=5.0)
    left, mask = without_held(now, manifest)
    assert list(left) == ["embedding", "adapter", "head"]
    config = {**roles(), HELD_ENTRIES: manifest.digest, HELD_MASK: mask}
    seen, _ = run(message(left, config, kind), node)
    assert same(seen, now)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("loss", ["everything", "manifest", "file", "damage", "cache"])
def test_a_node_that_lacks_an_entry_does_not_run_and_says_so(node, bare, kind, loss):
    _, reply = run(message(model(), roles()), node, model(adapter=1.0))
    digest, cache = claimed_digest(reply.content), EntryCache.of(node)
    manifest = cache.manifest(digest)
    lost = cache.folder / (digest if loss == "manifest" else manifest.held["backbone"])
    if loss == "damage":
        lost.write_bytes(lost.read_bytes()[:-1])
    elif loss == "everything":
        for file in cache.folder.iterdir():
            file.unlink()
    elif loss != "cache":
        lost.unlink()
    config = {**roles(), HELD_ENTRIES: digest}
    left, _ = without_held(model(), manifest)
    sent = message(left, config, kind)
    seen, lacking = run(sent, bare if loss == "cache" else node)
    assert seen is None
    assert lacks_entries(lacking.content)
    assert dict(lacking.content) == {ENTRIES: ConfigRecord({MISSING: 1})}
    seen, reply = run(message(model(), roles(), kind), node, model(adapter=1.0))
    assert same(seen, model())
    if kind == "train":
        assert claimed_digest(reply.content) == digest
        assert same(run(sent, node)[0], model())


def test_a_node_without_a_cache_leaves_entries_out_but_holds_none(bare):
    _, reply = run(message(model(), roles()), bare, model(adapter=1.0))
    assert list(reply.content["arrays"]) == ["adapter"]
    assert dict(reply.content[ENTRIES]) == {UNCHANGED: b"\x1b"}


def test_without_roles_nothing_is_left_out(node):
    for config in ({}, {"roles": "x"}, {"roles": "zzzzz"}, {"roles": 5}):
        _, reply = run(message(model(), config), node)
        assert list(reply.content["arrays"]) == NAMES
        assert ENTRIES not in reply.content
    assert not EntryCache.of(node).folder.exists()


def test_a_server_that_does_not_allow_it_gets_all_entries(node):
    _, reply = run(message(model(), {**roles(), LEAVE_OUT: False}), node)
    assert list(reply.content["arrays"]) == NAMES
    assert ENTRIES not in reply.content


def test_another_servers_key_held_is_no_digest(node):
    for value in ("back", 7, ["0" * 64]):
        seen, _ = run(message(model(), {HELD_ENTRIES: value}), node)
        assert same(seen, model())


def test_a_reply_to_an_evaluation_is_passed_on(node):
    _, reply = run(message(model(), roles(), "evaluate"), node)
    assert list(reply.content["arrays"]) == NAMES


def test_tied_entries_that_moved_together_are_sent_once(node):
    trained = model(adapter=1.0, tied=2.0)
    _, reply = run(message(model(), roles()), node, trained)
    assert list(reply.content["arrays"]) == ["embedding", "adapter"]
    assert unchanged(reply) == {"backbone", "steps"}


def test_tied_entries_that_came_apart_are_both_sent(node):
    trained = model(adapter=1.0, tied=2.0)
    trained["head"] = model(tied=7.0)["head"]
    _, reply = run(message(model(), roles()), node, trained)
    assert list(reply.content["arrays"]) == ["embedding", "adapter", "head"]
    trained["head"] = model()["head"]  # as it was sent, while the embedding moved
    _, reply = run(message(model(), roles()), node, trained)
    assert list(reply.content["arrays"]) == ["embedding", "adapter"]
    assert unchanged(reply) == {"backbone", "head", "steps"}


def test_what_a_codec_said_is_kept(node):
    packed = {name: array for name, array in model(tied=2.0).items() if name != "adapter"}
    _, reply = run(message(model(), roles()), node, packed, codec={SAME: [2, 1]})
    assert list(reply.content["arrays"]) == ["embedding"]
    assert reply.content[ENTRIES][SAME] == [2, 1]
    assert unchanged(reply) == {"backbone", "steps"}


def test_entries_that_a_codec_left_out_are_held_too(node):
    rest = {"adapter": model(1.0)["adapter"], "steps": model()["steps"]}
    mask = mask_of({"backbone", "embedding", "head"}, NAMES)
    _, reply = run(message(model(), roles()), node, rest, codec={UNCHANGED: mask})
    assert list(reply.content["arrays"]) == ["adapter"]
    assert unchanged(reply) == set(NAMES) - {"adapter"}
    assert claimed_digest(reply.content) == Manifest.of(model(), unchanged(reply)).digest
    rest = {"adapter": model(1.0)["adapter"]}
    mask = mask_of(set(NAMES) - {"adapter"}, NAMES)  # and nothing else
    _, reply = run(message(model(), roles()), node, rest, codec={UNCHANGED: mask})
    assert claimed_digest(reply.content) == Manifest.of(model(), unchanged(reply)).digest


def test_what_makes_no_sense_is_left_to_the_server(node):
    _, reply = run(message(model(), roles()), node, codec={UNCHANGED: b"\x00\xff\x00"})
    assert list(reply.content["arrays"]) == NAMES
    assert dict(reply.content[ENTRIES]) == {UNCHANGED: b"\x00\xff\x00"}


def test_a_model_that_changed_altogether_costs_no_hash_and_no_file(node, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("hashed")

    monkeypatch.setattr(entries_module, "Manifest", refuse)
    monkeypatch.setattr(entry_cache, "array_hash", refuse)
    before = {name: a for name, a in model().items() if name in ("adapter", "embedding")}
    after = {name: model(1.0, 2.0)[name] for name in before}
    config = role_config(layout_of(before))
    _, reply = run(message(before, config), node, after)
    assert same(reply.content["arrays"], after)
    assert ENTRIES not in reply.content
    assert not EntryCache.of(node).folder.exists()


def test_all_entries_may_be_left_out(node):
    _, reply = run(message(model(), roles()), node)
    assert list(reply.content["arrays"]) == []
    assert unchanged(reply) == set(NAMES)
    config = {**roles(), HELD_ENTRIES: claimed_digest(reply.content)}
    assert same(run(message({}, config), node)[0], model())


def ensemble(*adapters):
    """Return members 1, 3, ... of an ensemble, and the part of a config that names them."""
    arrays, config = {}, {MEMBERS: [2 * place + 1 for place in range(len(adapters))]}
    for member, adapter in zip(config[MEMBERS], adapters, strict=True):
        arrays |= add_member_prefix(member, model(adapter))
        config |= add_member_prefix(member, roles())
    return arrays, config


def test_each_member_of_an_ensemble_has_its_own_entries(node):
    (sent, config), (trained, _) = ensemble(0.0, 1.0), ensemble(4.0, 1.0)
    _, reply = run(message(sent, config), node, trained)
    assert list(reply.content["arrays"]) == ["member-1/adapter"]
    assert unchanged(reply, 1) == set(NAMES) - {"adapter"}
    assert unchanged(reply, 3) == set(NAMES)
    claimed = {member: claimed_digest(reply.content, member) for member in (1, 3)}
    now = {1: model(6.0), 3: model(1.0)}
    left = {}
    for member, digest in claimed.items():
        manifest = EntryCache.of(node).manifest(digest)
        rest, _ = without_held(now[member], manifest)
        left |= add_member_prefix(member, rest)
        config |= add_member_prefix(member, {HELD_ENTRIES: digest})
    assert list(left) == ["member-1/adapter"]
    seen, _ = run(message(left, config), node)
    assert same(seen, add_member_prefix(1, now[1]) | add_member_prefix(3, now[3]))
    config["member-3/held"] = "0" * 64
    assert run(message(left, config), node)[0] is None


def test_a_member_that_is_sent_in_full_may_stand_beside_one_that_is_not(node):
    sent, config = ensemble(0.0, 1.0)
    _, reply = run(message(sent, config), node, ensemble(4.0, 5.0)[0])
    manifest = EntryCache.of(node).manifest(claimed_digest(reply.content, 3))
    now = add_member_prefix(1, model(8.0)) | add_member_prefix(3, model(9.0))
    left = add_member_prefix(1, model(8.0))
    left |= add_member_prefix(3, without_held(model(9.0), manifest)[0])
    config["member-3/held"] = manifest.digest
    assert same(run(message(left, config), node)[0], now)


def odd_replies():
    """Return functions that make a client's odd reply of the message it got."""
    wrong = Array("float32", (1,), "numpy.ndarray", b"no array")
    return {
        "error": lambda m: Message(Error(1, "broken"), reply_to=m),
        "no arrays": lambda m: Message(RecordDict({"config": ConfigRecord()}), reply_to=m),
        "two records": lambda m: Message(
            RecordDict({"a": ArrayRecord(model()), "b": ArrayRecord(model())}), reply_to=m
        ),
        "garbage": lambda m: Message(
            RecordDict({"arrays": ArrayRecord({"backbone": wrong, "more": wrong})}), reply_to=m
        ),
    }


@pytest.mark.parametrize("kind", odd_replies())
def test_odd_replies_are_passed_on_for_the_server_to_screen(node, kind):
    app = ClientApp(mods=[UnchangedEntriesMod()])
    sent = message(model(), roles())
    expected = odd_replies()[kind](sent)
    app.train()(lambda received, context: odd_replies()[kind](received))
    reply = app(sent, node)
    assert reply.has_error() == expected.has_error()
    if not reply.has_error():
        assert reply.content == expected.content


def test_nothing_is_kept_in_the_clients_state(node):
    _, reply = run(message(model(), roles()), node, model(adapter=1.0))
    config = {**roles(), HELD_ENTRIES: claimed_digest(reply.content)}
    run(message({"adapter": model()["adapter"]}, config), node)
    assert dict(node.state) == {}


def test_a_cache_that_cannot_be_written_is_no_cache(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    node = Context(1, 1, {CACHE_DIR: str(tmp_path / "file")}, RecordDict(), {})
    _, reply = run(message(model(), roles()), node, model(adapter=1.0))
    assert list(reply.content["arrays"]) == ["adapter"]
    assert claimed_digest(reply.content) is None
    assert names_in(reply.content[ENTRIES][UNCHANGED], NAMES) == [
        "backbone",
        "embedding",
        "head",
        "steps",
    ]
