"""A SuperLink's list of replies is read as protobuf reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqde_fl.simulations.audit.upload_changes import protobuf_field
from hqde_fl.simulations.engines.deployment.announcements import Announcements, object_ids
from hqde_fl.simulations.engines.deployment.limits import ReplyError
from hqde_fl.simulations.engines.flower_internals import (
    ObjectTree,
    ProtoMessage,
    ProtoMetadata,
    PullAppMessagesResponse,
)

IDS = st.integers(0, 9).map("{:064x}".format)
TREES = st.recursive(
    IDS.map(lambda key: ObjectTree(object_id=key)),
    lambda below: st.builds(
        lambda key, children: ObjectTree(object_id=key, children=children),
        IDS,
        st.lists(below, max_size=4),
    ),
    max_leaves=20,
)


def walked(tree: ObjectTree) -> Iterator[str]:
    yield tree.object_id
    for child in tree.children:
        yield from walked(child)


@given(tree=TREES)
def test_the_ids_are_those_of_the_tree(tree: ObjectTree) -> None:
    ids = list(walked(tree))
    found = object_ids(tree.SerializeToString(), len(ids))
    assert sorted(found) == sorted(set(ids))
    if len(ids) > 1:
        with pytest.raises(ReplyError, match=f"more than {len(ids) - 1} objects"):
            object_ids(tree.SerializeToString(), len(ids) - 1)


def test_a_tree_that_is_deeper_than_protobuf_reads_is_walked() -> None:
    tree = b""
    for count in range(1000):
        tree = protobuf_field(1, b"%064x" % count) + (protobuf_field(2, tree) if tree else b"")
    assert len(object_ids(tree, 1000)) == 1000
    with pytest.raises(ReplyError, match="more than 999 objects"):
        object_ids(tree, 999)


@given(data=st.binary(max_size=100))
def test_any_bytes_are_a_tree(data: bytes) -> None:
    with suppress(UnicodeDecodeError):  # the Grid makes it an error of the node
        assert len(object_ids(data, 100)) <= 100


def test_each_message_is_told_with_its_tree() -> None:
    trees = [ObjectTree(object_id=f"{count:064x}") for count in range(3)]
    messages = [
        ProtoMessage(metadata=ProtoMetadata(reply_to_message_id=key, group_id="g"))
        for key in ("a", "", "b")
    ]
    answer = PullAppMessagesResponse(messages_list=messages, message_object_trees=trees)
    announcements = Announcements()
    announcements.ParseFromString(answer.SerializeToString())
    listed = [(announced.answers, announced.root) for announced in announcements.messages]
    assert listed == [("a", f"{0:064x}"), ("", f"{1:064x}"), ("b", f"{2:064x}")]


def test_an_empty_answer_tells_of_nothing() -> None:
    announcements = Announcements()
    announcements.ParseFromString(b"")
    assert announcements.messages == []
