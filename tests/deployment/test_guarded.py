"""The guarded Grid on a real SuperLink, with uploads that Flower's own Grid does not survive."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)

from hqde_fl.errors import CohortError
from hqde_fl.protocol.flower_internals import ErrorCode
from hqde_fl.simulations.engines.deployment import guarded_grid
from hqde_fl.simulations.engines.deployment.guarded_grid import GuardedGrid
from hqde_fl.simulations.engines.deployment.limits import Limits
from hqde_fl.simulations.engines.deployment.superlink_requests import Link
from hqde_fl.simulations.engines.flower_internals import (
    ObjectTree,
    ProtoMessage,
    RunNotRunningException,
)
from tests.deployment.superlink import Node, Site, Upload, sealed

ANSWER_SECONDS = 60.0
"""Long enough for every answer that comes."""
MODEL = np.arange(2000, dtype=np.float32)
SMALL = Limits(max_bytes=200_000, max_objects=32, max_record_bytes=2000)


def content(values: np.ndarray = MODEL) -> RecordDict:
    arrays = ArrayRecord({"weight": Array(values)})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 3})})


def ask(
    site: Site, *nodes: Node, timeout: float = ANSWER_SECONDS, limits: Limits | None = SMALL
) -> Iterator[Message]:
    grid = GuardedGrid(site.grid, limits=limits)
    messages = [Message(content(), node.id, "train", group_id="1") for node in nodes]
    return grid.send_and_receive(messages, timeout=timeout)


def body(change: Callable[[dict[str, object]], None]) -> Callable[[bytes], bytes]:
    """Return a function that changes the JSON of an object."""

    def changed(content: bytes) -> bytes:
        head, _, text = content.partition(b"\x00")
        kind, children, _ = head.decode().split(" ")
        fields = json.loads(text)
        change(fields)
        return sealed(kind, children.split(","), json.dumps(fields).encode())

    return changed


def with_body(text: bytes) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        kind, children, _ = content.partition(b"\x00")[0].decode().split(" ")
        return sealed(kind, [children] if children else [], text)

    return changed


def forged(content: bytes) -> bytes:
    """Return a message whose metadata name another node and another message."""
    head, _, text = content.partition(b"\x00")
    kind, children, _ = head.decode().split(" ")
    message = ProtoMessage.FromString(text)
    message.metadata.src_node_id = 4242
    message.metadata.reply_to_message_id = "0" * 64
    message.metadata.group_id = "99"
    return sealed(kind, [children], message.SerializeToString())


MALFORMED: Mapping[str, tuple[Mapping[str, Callable[[bytes], bytes]], str]] = {
    "message that is none": ({"Message": with_body(b"\xff" * 9)}, "malformed reply (DecodeError"),
    "content that is no JSON": ({"RecordDict": with_body(b"{")}, "malformed reply (JSONDecodeErr"),
    "content that is a list": ({"RecordDict": with_body(b"[]")}, "malformed reply (AttributeErr"),
    "JSON without end": ({"ArrayRecord": with_body(b"[" * 90_000)}, "nested too deeply"),
    "names of nothing": ({"ArrayRecord": with_body(b"{}")}, "malformed reply (ValueError"),
    "metrics that are none": ({"MetricRecord": with_body(b"\x0a\xff")}, "malformed reply (Decode"),
    "no chunks": ({"Array": body(lambda f: f.pop("arraychunk_ids"))}, "malformed reply (KeyError"),
    "chunks out of range": (
        {"Array": body(lambda f: f.update(arraychunk_ids=[7]))},
        "malformed reply (IndexError",
    ),
    "chunks by name": (
        {"Array": body(lambda f: f.update(arraychunk_ids="x"))},
        "malformed reply (TypeError",
    ),
    "a dtype that is a number": ({"Array": body(lambda f: f.update(dtype=5))}, "(TypeError"),
    "a shape of words": ({"Array": body(lambda f: f.update(shape=["x"]))}, "(TypeError"),
    "one chunk 200 times": (
        {"Array": body(lambda f: f.update(arraychunk_ids=[0] * 200))},
        "too large: its arrays take more than 200000 bytes once inflated",
    ),
    "a chunk in place of an array": (
        {"Array": lambda content: sealed("ArrayChunk", [], b"")},
        "expected Array, found 'ArrayChunk'",
    ),
    "a message in a message": (
        {"RecordDict": lambda content: content.replace(b"RecordDict", b"Message", 1)},
        "expected RecordDict, found 'Message'",
    ),
    "a child from nowhere": (
        {"ArrayRecord": lambda content: sealed("ArrayRecord", ["0" * 64], b"{}")},
        "its upload was not completed",
    ),
    "no content": ({"Message": lambda c: sealed("Message", [], c.partition(b"\x00")[2])}, "0 cont"),
    "5 MB of objects for a shape": (
        {"Array": body(lambda f: f.update(shape=[{}] * 40_000))},
        "too large: an array described by",
    ),
    "a hundred dimensions": (
        {"Array": body(lambda f: f.update(shape=[1] * 100))},
        "malformed reply: an array of 100 dimensions",
    ),
    "other children than named": (
        {"ArrayRecord": lambda content: sealed("ArrayRecord", [], content.partition(b"\x00")[2])},
        "malformed reply (ValueError",
    ),
    "a small record of many metrics": (
        {"MetricRecord": lambda content: sealed("MetricRecord", [], b"\x0a\x00" * 900)},
        "malformed reply (AttributeError",
    ),
    "a message of records": (
        {"Message": with_body(b"\x12\xa0\x8d\x06" + b"\x0a\x00" * 50_000)},
        "too large: reading it takes more than",
    ),
    "a large record": (
        {"MetricRecord": lambda content: sealed("MetricRecord", [], b"\x0a\x00" * 1500)},
        "too large: its metrics and configs take more than 2000 bytes",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_upload_is_an_error_of_the_node_that_sent_it(site: Site, name: str) -> None:
    change, reason = MALFORMED[name]
    good, bad = Node(site.address), Node(site.address)
    replies = ask(site, bad, good)
    bad.hand_in(bad.reply(content()).replaced(change))
    good.hand_in(good.reply(content()))
    by_node = {reply.metadata.src_node_id: reply for reply in replies}
    assert set(by_node) == {good.id, bad.id}
    assert reason in str(by_node[bad.id].error.reason)
    assert by_node[good.id].content["arrays"]["weight"] == Array(MODEL)  # type: ignore[index]


def test_good_replies_come_as_they_were_sent(site: Site) -> None:
    nodes = [Node(site.address) for _ in range(3)]
    sent = {node.id: content(MODEL * k) for k, node in enumerate(nodes)}
    sent[nodes[0].id]["config"] = ConfigRecord({"bytes": b"\x00\x01", "names": ["a", "b"]})
    sent[nodes[1].id]["arrays"] = ArrayRecord({"a": Array(MODEL), "b": Array(MODEL)})
    sent[nodes[2].id]["arrays"] = ArrayRecord({"empty": Array(np.zeros((0, 3), np.float32))})
    replies = ask(site, *nodes)
    for node in reversed(nodes):
        node.hand_in(node.reply(sent[node.id]))
    found = {reply.metadata.src_node_id: reply.content for reply in replies}
    assert found == sent


def test_a_reply_is_its_nodes_whatever_it_says_of_itself(site: Site) -> None:
    node = Node(site.address)
    replies = ask(site, node)
    asked = node.instruction()
    node.hand_in(node.reply(content(), asked).replaced({"Message": forged}))
    (reply,) = replies
    assert reply.metadata.src_node_id == node.id
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id
    assert reply.metadata.group_id == "1"
    assert reply.content == content()


def test_a_clients_error_is_passed_on_at_reasonable_length(site: Site) -> None:
    node = Node(site.address)
    replies = ask(site, node)
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "x" * 50_000 + "\nValueError: no luck")
    node.hand_in(Upload.of(Message(error, reply_to=node.instruction())))
    (reply,) = replies
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert reply.error.reason is not None
    assert reply.error.reason.endswith("\nValueError: no luck")
    assert len(reply.error.reason) < 5000


def test_too_many_bytes_are_refused_before_they_are_pulled(site: Site) -> None:
    one, several = Node(site.address), Node(site.address)
    replies = ask(site, one, several)
    one.hand_in(one.reply(content(np.zeros(10**6, np.float32))))
    parts = {str(k): Array(MODEL + k) for k in range(30)}
    several.hand_in(several.reply(RecordDict({"arrays": ArrayRecord(parts)})))
    reasons = {reply.metadata.src_node_id: str(reply.error.reason) for reply in replies}
    assert "too large: an object of 4000" in reasons[one.id]
    assert "too large: more than" in reasons[several.id]


def test_too_many_objects_are_refused_before_they_are_pulled(site: Site) -> None:
    node = Node(site.address)
    replies = ask(site, node)
    parts = {str(k): Array(np.array([k])) for k in range(40)}
    node.hand_in(node.reply(RecordDict({"arrays": ArrayRecord(parts)})))
    (reply,) = replies
    assert reply.error.reason == "too large: more than 32 objects"


def test_without_limits_they_grow_with_the_model(site: Site) -> None:
    node = Node(site.address)
    grid = GuardedGrid(site.grid)
    large = RecordDict({"arrays": ArrayRecord({"weight": Array(np.zeros(6 << 20, np.float32))})})
    replies = grid.send_and_receive([Message(large, node.id, "train")], timeout=ANSWER_SECONDS)
    node.hand_in(node.reply(large))
    (reply,) = replies
    assert reply.content == large


def test_an_instruction_that_a_node_makes_up_is_not_a_reply(site: Site) -> None:
    node, other = Node(site.address), Node(site.address)
    asked = ask(site, node)
    reply = node.reply(content())
    node.hand_in(Upload.of(Message(content(), 1, "train")))
    node.hand_in(reply)
    assert [reply.metadata.src_node_id for reply in asked] == [node.id]
    assert other.id not in [reply.metadata.src_node_id for reply in asked]


def test_a_large_instruction_of_one_node_does_not_cost_another_its_reply(site: Site) -> None:
    """A SuperLink lists both in one response."""
    good, bad = Node(site.address), Node(site.address)
    replies = ask(site, good, bad)
    reply = good.reply(content())
    made_up = Upload.of(Message(content(), 1, "train"))
    bad.instruction()
    bad.announce(replace(made_up, tree=wide(made_up, 2000)))
    good.hand_in(reply)
    assert next(iter(replies)).content == content()


def test_an_answer_beyond_the_limit_is_refused_before_it_is_read(site: Site) -> None:
    node = Node(site.address)
    replies = ask(site, node)
    upload = node.reply(content())
    children = [ObjectTree(object_id=f"{count:064x}") for count in range(5000)]
    node.announce(
        replace(upload, tree=ObjectTree(object_id=upload.message.object_id, children=children))
    )
    (reply,) = replies
    assert "too large: an object of" in str(reply.error.reason)


def test_a_wide_tree_is_refused_before_its_objects_are_pulled(site: Site) -> None:
    node = Node(site.address)
    replies = ask(site, node)
    upload = node.reply(content())
    children = [ObjectTree(object_id=f"{count:064x}") for count in range(40)]
    node.announce(
        replace(upload, tree=ObjectTree(object_id=upload.message.object_id, children=children))
    )
    (reply,) = replies
    assert reply.error.reason == "too large: more than 32 objects"


def test_the_deadline_holds_against_an_upload_that_never_goes_on(site: Site) -> None:
    good, bad = Node(site.address), Node(site.address)
    replies = ask(site, bad, good, timeout=3.0)
    upload = bad.reply(content(MODEL + 1))
    session = bad.announce(upload)
    good.hand_in(good.reply(content()))
    key, part = next(iter(upload.objects.items()))
    assert bad.push(key, part, session)
    assert [reply.metadata.src_node_id for reply in replies] == [good.id]
    assert wait_until(lambda: not bad.finds(key))  # the SuperLink has been told to forget it


def test_the_deadline_holds_against_one_byte_a_second(site: Site) -> None:
    good, bad = Node(site.address), Node(site.address)
    begun = time.monotonic()
    replies = ask(site, bad, good, timeout=4.0)
    bad.announce(bad.reply(content(MODEL + 2)))
    over = threading.Event()

    def trickle() -> None:
        host, port = site.address.split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = (
                "POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
            )
            connection.sendall(head.encode())
            while not over.wait(1.0):
                connection.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    good.hand_in(good.reply(content()))
    try:
        assert [reply.metadata.src_node_id for reply in replies] == [good.id]
        assert time.monotonic() - begun < 4.0 + 10.0
    finally:
        over.set()
        thread.join()


def test_a_node_that_goes_offline_while_uploading_is_named(site: Site) -> None:
    good, bad = Node(site.address), Node(site.address)
    replies = ask(site, bad, good)
    asked, upload = good.instruction(), bad.reply(content(MODEL + 3))
    session = bad.announce(upload)
    bad.push(*next(iter(upload.objects.items())), session)
    assert wait_until(lambda: site.state.num_message_res() == 0)  # the Grid has been told of it
    bad.deactivate()
    good.hand_in(good.reply(content(), asked))
    reasons = {r.metadata.src_node_id: r.error.reason for r in replies if r.has_error()}
    assert reasons == {bad.id: "went offline while uploading its reply"}


def test_a_node_that_restarts_at_work_is_named_and_does_not_hold_the_round(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_grid, "POLL_SECONDS", 1.0)
    node = Node(site.address)
    replies = ask(site, node)
    node.instruction()
    node.deactivate()
    node.activate()
    (reply,) = replies
    assert reply.metadata.src_node_id == node.id
    missed = reply.error.code == ErrorCode.NODE_UNAVAILABLE  # seen between the two
    assert missed or reply.error.reason == "restarted while it was at work"


def test_a_node_that_is_away_is_named(site: Site) -> None:
    node = Node(site.address)
    node.deactivate()
    (reply,) = ask(site, node)
    assert reply.metadata.src_node_id == node.id
    assert reply.error.code == ErrorCode.NODE_UNAVAILABLE


def test_a_message_for_nobody_is_refused_by_name(site: Site) -> None:
    stranger = replace_id(Node(site.address), 4242)
    (reply,) = ask(site, stranger)
    assert reply.metadata.src_node_id == 4242
    assert reply.error.reason == "the SuperLink did not take the message for it"


def test_an_instruction_does_not_outlive_its_round_by_much(site: Site) -> None:
    node = Node(site.address)
    replies = ask(site, node, timeout=0.1)
    assert list(replies) == []
    assert node.instruction().metadata.ttl < 60


@pytest.mark.parametrize("seconds", [1e10, math.inf])
def test_a_deadline_may_be_longer_than_a_thread_can_wait(seconds: float) -> None:
    collection = guarded_grid._ReplyCollector(None, None, {}, {}, SMALL)
    collection.run()
    assert list(collection.until(time.monotonic() + seconds)) == []


def test_waiting_for_nodes_has_an_end(site: Site) -> None:
    grid = GuardedGrid(site.grid, wait_for_nodes=0.05)

    def for_ever() -> None:
        while True:
            grid.get_node_ids()

    with pytest.raises(CohortError, match=r"within wait_for_nodes=0\.05 s, found \d+"):
        for_ever()


def test_a_run_that_is_stopped_ends_the_round(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(link: Link, message_id: str) -> None:
        raise RunNotRunningException

    monkeypatch.setattr(Link, "reply", stopped)
    with pytest.raises(RunNotRunningException):
        list(ask(site, Node(site.address)))


def test_the_tree_may_not_be_what_the_objects_are(site: Site) -> None:
    """An object that the tree leaves out is asked for, and is not there."""
    node = Node(site.address)
    replies = ask(site, node)
    upload = node.reply(content(MODEL + 1))  # the SuperLink has what was sent to the node
    bare = ObjectTree(object_id=upload.tree.object_id)
    node.hand_in(replace(upload, tree=bare))
    (reply,) = replies
    assert "its upload was not completed" in str(reply.error.reason)


def without_parts(tree: ObjectTree, kind: str, upload: Upload) -> ObjectTree:
    """Return a tree in which objects of a type have nothing below them."""
    bare = upload.objects[tree.object_id].startswith(kind.encode() + b" ")
    below = [] if bare else [without_parts(child, kind, upload) for child in tree.children]
    return ObjectTree(object_id=tree.object_id, children=below)


def test_parts_that_another_node_left_out_are_pulled_by_their_ids(site: Site) -> None:
    """The SuperLink believes the first node that declares an object about its parts."""
    liar, honest = Node(site.address), Node(site.address)
    replies = ask(site, liar, honest)
    lie = liar.reply(content())
    liar.hand_in(replace(lie, tree=without_parts(lie.tree, "Array", lie)))
    honest.hand_in(honest.reply(content()))
    by_node = {reply.metadata.src_node_id: reply for reply in replies}
    assert not by_node[honest.id].has_error(), by_node[honest.id].error
    (record,) = by_node[honest.id].content.array_records.values()
    assert np.array_equal(record["weight"].numpy(), MODEL)


def wide(upload: Upload, count: int) -> ObjectTree:
    """Return a tree with ids of objects that do not exist."""
    children = [ObjectTree(object_id=f"{each:064x}") for each in range(count)]
    return ObjectTree(object_id=upload.message.metadata.message_id, children=children)


def replace_id(node: Node, number: int) -> Node:
    node.id = number
    return node


def wait_until(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.02)
    return False
