"""Tests of what the server remembers of the entries that nodes hold."""

import pytest
import torch

from hqde_fl.protocol.held_entries import Manifest, without_held
from hqde_fl.protocol.records import to_record
from hqde_fl.strategies.holdings import Holdings

SENT = dict(to_record({name: torch.full((4,), float(i)) for i, name in enumerate("abcd")}))
HELD = Manifest.of(SENT, "ac")


def test_nothing_is_held_at_first():
    assert Holdings().digest_of(1) is None
    assert Holdings().without(1) == Holdings()


def test_a_claim_that_the_server_finds_too_is_remembered():
    after = Holdings().with_replies({1: ({"a", "c"}, HELD.digest)}, SENT)
    assert after.digest_of(1) == HELD.digest
    assert after.manifest(after.digest_of(1)) == HELD
    assert after.digest_of(2) is None
    left, mask = without_held(SENT, after.manifest(after.digest_of(1)))
    assert (list(left), mask) == (["b", "d"], None)


@pytest.mark.parametrize(
    ("unchanged", "claimed"),
    [("ac", None), ("ac", "0" * 64), ("ab", HELD.digest), ("", HELD.digest), ("abcd", HELD.digest)],
)
def test_any_other_reply_ends_what_the_node_held(unchanged, claimed):
    holding = (
        Holdings()
        .with_replies({1: ("ac", HELD.digest)}, SENT)
        .with_replies({2: ("ac", HELD.digest)}, SENT)
    )
    after = holding.with_replies({1: (set(unchanged), claimed)}, SENT)
    assert after.digest_of(1) is None
    assert after.manifest(after.digest_of(2)) == HELD


def test_a_digest_of_other_bits_is_not_believed():
    other = SENT | {"a": SENT["b"]}
    assert Holdings().with_replies({1: ("ac", HELD.digest)}, other) == Holdings()


def test_manifests_that_nobody_holds_are_forgotten():
    after = Holdings()
    for node in range(3):
        after = after.with_replies({node: ("ac", HELD.digest)}, SENT)
    assert len(after.manifests) == 1
    other = Manifest.of(SENT, "d")
    after = after.with_replies({0: ("d", other.digest)}, SENT)
    assert set(after.manifests) == {HELD.digest, other.digest}
    for node in range(3):
        after = after.without(node)
    assert after == Holdings()


def test_the_same_claim_again_changes_nothing():
    after = Holdings().with_replies({1: ("ac", HELD.digest)}, SENT)
    assert after.with_replies({1: ("ac", HELD.digest)}, SENT) is after


def test_many_replies_are_as_one_after_the_other():
    replies = {
        1: ("ac", HELD.digest),
        2: ("ac", "0" * 64),
        3: ("d", Manifest.of(SENT, "d").digest),
        4: ((), None),
    }
    start = Holdings().with_replies({2: ("ac", HELD.digest)}, SENT)
    after = start
    for node, (unchanged, claimed) in replies.items():
        after = after.with_replies({node: (unchanged, claimed)}, SENT)
    assert start.with_replies(replies, SENT) == after
    assert set(after.digests) == {1, 3}
