"""Secure sums of one bucket, with clients that drop out, and with clients and servers that lie."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secure_sums.bucket import Bucket
from hqde_fl.privacy.secure_sums.client import Commitment, PublicKeys, SecureClient
from hqde_fl.privacy.secure_sums.keys import new_key, public_key
from hqde_fl.privacy.secure_sums.ring import RingVector

SESSION = "run 1\nround 1\nbucket 0"
SIZE, THRESHOLD, BITS = 6, 4, 19


def vector_of(client: int, words: int = 5) -> RingVector:
    numbers = np.random.default_rng(client)
    return RingVector(
        numbers.integers(0, 1 << 16, words, dtype=np.uint32),
        numbers.integers(0, 1 << 60, 2, dtype=np.uint64),
        BITS,
    )


def plain_sum(clients: Iterable[int]) -> RingVector:
    total = RingVector(np.zeros(5, np.uint32), np.zeros(2, np.uint64), BITS)
    for client in clients:
        total = total + vector_of(client)
    return total


@dataclass
class Sum:
    """A sum, step by step; at each step only some of the clients answer."""

    bucket: Bucket = field(default_factory=lambda: Bucket(SESSION, THRESHOLD))
    clients: dict[int, SecureClient] = field(
        default_factory=lambda: {i: SecureClient.new(SESSION, i) for i in range(1, SIZE + 1)}
    )

    def advertise(self, answering: Iterable[int]) -> None:
        for i in sorted(answering):
            self.bucket.add_keys(i, self.clients[i].public_keys)

    def share(self, answering: Iterable[int]) -> None:
        for i in sorted(answering):
            client, encrypted, seed_hash = self.clients[i].share(self.bucket.keys, THRESHOLD)
            self.clients[i] = client
            self.bucket.add_shares(i, encrypted, seed_hash)

    def mask(self, answering: Iterable[int]) -> None:
        for i in sorted(answering):
            self.clients[i], masked = self.clients[i].masked(
                self.bucket.shares_for(i), vector_of(i)
            )
            self.bucket.masked[i] = masked

    def unmask(self, answering: Iterable[int]) -> None:
        for i in sorted(answering):
            self.bucket.add_revealed(i, *self.clients[i].unmask(self.bucket.masked))


def subsets(of: Iterable[int], least: int) -> list[tuple[int, ...]]:
    of = sorted(of)
    return [s for k in range(least, len(of) + 1) for s in itertools.combinations(of, k)]


def same(first: RingVector, second: RingVector) -> bool:
    return np.array_equal(first.words, second.words) and np.array_equal(first.wide, second.wide)


def test_every_pattern_of_drop_outs_gives_the_plain_sum():
    """At each step at least four of six answer, of those that answered before."""
    checked = 0
    for advertised in subsets(range(1, SIZE + 1), THRESHOLD):
        for shared in subsets(advertised, THRESHOLD):
            for masked in subsets(shared, THRESHOLD):
                one = Sum()
                one.advertise(advertised)
                one.share(shared)
                one.mask(masked)
                for revealing in subsets(masked, THRESHOLD):
                    one.bucket.seed_shares.clear()
                    one.bucket.key_shares.clear()
                    one.unmask(revealing)
                    assert same(one.bucket.total(), plain_sum(masked))
                    checked += 1
    # chains of sets: each client answers 0 to 4 steps in turn, and at least four answer all
    assert checked == sum(
        1
        for steps in itertools.product(range(5), repeat=SIZE)
        if sum(step == 4 for step in steps) >= THRESHOLD
    )


@pytest.mark.parametrize("step", ["share", "mask", "unmask"])
def test_below_the_threshold_the_bucket_is_void_and_says_so(step):
    everyone, few = range(1, SIZE + 1), range(1, THRESHOLD)
    one = Sum()
    one.advertise(everyone)
    one.share(few if step == "share" else everyone)
    if step == "share":
        with pytest.raises(SecureAggregationError, match="3 clients are left, the threshold is 4"):
            one.mask(few)
        return
    one.mask(few if step == "mask" else everyone)
    if step == "mask":
        with pytest.raises(SecureAggregationError, match="3 clients sent a masked update"):
            one.bucket.total()
        with pytest.raises(SecureAggregationError, match="3 clients stayed, the threshold is 4"):
            one.unmask(few)
        return
    one.unmask(few)
    with pytest.raises(SecureAggregationError, match="3 shares of client 1's secret, needed are 4"):
        one.bucket.total()


def test_a_masked_transcript_is_uniform():
    """10^6 masked words of one client: their counts by the upper 8 bits pass a chi-square test."""
    one = Sum()
    one.advertise(range(1, SIZE + 1))
    one.share(range(1, SIZE + 1))
    ones = RingVector(np.zeros(1_000_000, np.uint32), np.zeros(0, np.uint64), BITS)
    _, masked = one.clients[1].masked(one.bucket.shares_for(1), ones)
    for shift in (0, BITS - 8):
        counts = np.bincount(masked.words >> np.uint32(shift) & np.uint32(255), minlength=256)
        expected = masked.words.size / 256
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - 255) < 6 * np.sqrt(2 * 255)


def test_a_transcript_tells_nothing_of_which_of_two_inputs_it_has():
    """The means of masked zeros and of masked largest numbers differ by no more than chance."""
    means = []
    for level in (0, (1 << 16) - 1):
        one = Sum()
        one.advertise(range(1, SIZE + 1))
        one.share(range(1, SIZE + 1))
        numbers = np.full(200_000, level, np.uint32)
        vector = RingVector(numbers, np.zeros(0, np.uint64), BITS)
        _, masked = one.clients[2].masked(one.bucket.shares_for(2), vector)
        means.append(masked.words.mean() / (1 << BITS))
    deviation = 1 / np.sqrt(12 * 200_000)
    assert np.abs(np.array(means) - 0.5).max() < 6 * deviation


def shared_sum() -> Sum:
    one = Sum()
    one.advertise(range(1, SIZE + 1))
    one.share(range(1, SIZE + 1))
    return one


class TestServerThatLies:
    """Questions that a client refuses."""

    def keys(self) -> dict[int, PublicKeys]:
        return {i: SecureClient.new(SESSION, i).public_keys for i in range(1, SIZE + 1)}

    @pytest.mark.parametrize(("threshold", "count"), [(2, 3), (3, 6), (0, 6), (7, 6), (4, 3)])
    def test_a_threshold_that_is_not_safe(self, threshold, count):
        client = SecureClient.new(SESSION, 1)
        keys = {**dict(itertools.islice(self.keys().items(), count)), 1: client.public_keys}
        with pytest.raises(SecureAggregationError, match="is not safe"):
            client.share(keys, threshold)

    @pytest.mark.parametrize("number", [0, 129, 10**9])
    def test_a_number_that_would_need_many_shares(self, number):
        client = SecureClient.new(SESSION, 1)
        keys = {**self.keys(), 1: client.public_keys, number: self.keys()[2]}
        with pytest.raises(SecureAggregationError, match=r"numbers in 1\.\.128"):
            client.share(keys, THRESHOLD)

    def test_other_keys_in_its_name(self):
        with pytest.raises(SecureAggregationError, match="in the place of its own"):
            SecureClient.new(SESSION, 1).share(self.keys(), THRESHOLD)

    def test_one_client_under_two_numbers(self):
        client = SecureClient.new(SESSION, 1)
        keys = {**self.keys(), 1: client.public_keys}
        keys[3] = keys[2]
        with pytest.raises(SecureAggregationError, match="the same public key"):
            client.share(keys, THRESHOLD)

    def test_a_key_of_small_order(self):
        client = SecureClient.new(SESSION, 1)
        keys = {**self.keys(), 1: client.public_keys}
        keys[2] = replace(keys[2], cipher=bytes(32))
        with pytest.raises(SecureAggregationError, match="none of Curve25519"):
            client.share(keys, THRESHOLD)

    def test_a_second_question_of_each_step(self):
        one = shared_sum()
        with pytest.raises(SecureAggregationError, match="has shared is asked"):
            one.clients[1].share(one.bucket.keys, THRESHOLD)
        one.mask([1])
        with pytest.raises(SecureAggregationError, match="has masked is asked"):
            one.clients[1].masked(one.bucket.shares_for(1), vector_of(1))

    def test_steps_out_of_order(self):
        client = SecureClient.new(SESSION, 1)
        with pytest.raises(SecureAggregationError, match="has advertised is asked"):
            client.masked({}, vector_of(1))
        with pytest.raises(SecureAggregationError, match="has advertised is asked"):
            client.unmask([1, 2, 3, 4])

    def test_a_survivor_who_never_shared(self):
        one = shared_sum()
        one.mask(range(1, SIZE + 1))
        with pytest.raises(SecureAggregationError, match="client 9 has not shared"):
            one.clients[1].unmask([1, 2, 3, 9])

    def test_never_both_secrets_of_one_client(self):
        one = shared_sum()
        one.mask(range(1, SIZE + 1))
        seeds, keys = one.clients[1].unmask([1, 2, 3, 4])
        assert not seeds.keys() & keys.keys()
        assert seeds.keys() | keys.keys() == set(range(1, SIZE + 1))

    def test_shares_of_another_session(self):
        one, other = shared_sum(), Sum()
        stale = one.bucket.shares_for(1)
        other.clients = {
            i: replace(c, session="run 1\nround 2\nbucket 0") for i, c in other.clients.items()
        }
        other.advertise(range(1, SIZE + 1))
        other.share(range(1, SIZE + 1))
        client, _ = other.clients[1].masked(stale, vector_of(1))
        with pytest.raises(SecureAggregationError, match="has been changed"):
            client.unmask(range(1, SIZE + 1))


class TestClientThatLies:
    """Answers that the server bears, with the client that it names."""

    def revealed(self, forged: dict[int, bytes], liars: tuple[int, ...]) -> Sum:
        """Return a sum of which client 6 has dropped out, and in which some reveal wrong shares."""
        one = shared_sum()
        one.mask(range(1, SIZE))
        for holder in range(1, SIZE):
            seeds, keys = one.clients[holder].unmask(one.bucket.masked)
            if holder in liars:
                seeds = {owner: forged.get(owner, share) for owner, share in seeds.items()}
                keys = {owner: forged.get(owner, share) for owner, share in keys.items()}
            if holder in liars:
                with pytest.raises(SecureAggregationError, match="is not the one that was shared"):
                    one.bucket.add_revealed(holder, seeds, keys)
            else:
                one.bucket.add_revealed(holder, seeds, keys)
        return one

    def test_wrong_shares_are_left_out(self):
        forged = {owner: bytes(32) for owner in range(1, SIZE + 1)}
        assert same(self.revealed(forged, (1,)).bucket.total(), plain_sum(range(1, SIZE)))

    @pytest.mark.parametrize("wrong", [bytes(32), b"", bytes(31)])
    def test_too_many_wrong_shares_void_the_bucket(self, wrong):
        one = self.revealed({3: wrong}, (1, 2))
        with pytest.raises(SecureAggregationError, match="3 shares of client 3's secret, needed"):
            one.bucket.total()

    @pytest.mark.parametrize("owner", [2, 6])
    def test_who_shares_another_secret_than_its_own(self, owner):
        one = Sum()
        one.advertise(range(1, SIZE + 1))
        other = replace(one.clients[owner], seed=new_key(), masking_key=new_key())
        honest = one.clients[owner]
        keys = {**one.bucket.keys, owner: other.public_keys}
        _, encrypted, hashes = other.share(keys, THRESHOLD)
        one.share(set(range(1, SIZE + 1)) - {owner})
        one.clients[owner], _, own = honest.share(one.bucket.keys, THRESHOLD)
        one.bucket.add_shares(owner, encrypted, replace(hashes, seed=own.seed))
        one.mask(range(1, SIZE))
        for holder in set(range(1, SIZE)) - {owner}:
            one.bucket.add_revealed(holder, *one.clients[holder].unmask(one.bucket.masked))
        with pytest.raises(SecureAggregationError, match=f"client {owner} has shared another"):
            one.bucket.total()

    @pytest.mark.parametrize("which", ["cipher", "masking"])
    def test_a_key_that_is_none(self, which):
        one = Sum()
        with pytest.raises(SecureAggregationError, match="none of Curve25519"):
            one.bucket.add_keys(1, replace(one.clients[1].public_keys, **{which: bytes(32)}))

    def test_hashes_of_too_few_shares(self):
        one = Sum()
        one.advertise(range(1, SIZE + 1))
        _, encrypted, hashes = one.clients[1].share(one.bucket.keys, THRESHOLD)
        with pytest.raises(SecureAggregationError, match="hashes of 0 shares, expected 6"):
            one.bucket.add_shares(1, encrypted, replace(hashes, shares={}))

    def test_shares_of_others_than_asked(self):
        one = shared_sum()
        one.mask(range(1, SIZE + 1))
        seeds, keys = one.clients[1].unmask(one.bucket.masked)
        del seeds[2]
        with pytest.raises(SecureAggregationError, match="shares of 5 seeds and 0 keys"):
            one.bucket.add_revealed(1, seeds, keys)

    def test_a_key_that_another_has(self):
        one = Sum()
        one.advertise([1])
        with pytest.raises(SecureAggregationError, match="another client of the bucket"):
            one.bucket.add_keys(
                2, replace(one.clients[1].public_keys, cipher=public_key(new_key()))
            )

    def test_shares_for_too_few(self):
        one = Sum()
        one.advertise(range(1, SIZE + 1))
        with pytest.raises(SecureAggregationError, match="shares for 1 clients, expected 5"):
            one.bucket.add_shares(1, {2: b""}, Commitment(b"", {}))


@pytest.mark.parametrize("bits", [1, 8, 11, 16, 17, 19, 27, 32])
@pytest.mark.parametrize("words", [0, 1, 7, 64, 1001])
def test_bytes_of_a_vector(bits, words):
    numbers = np.random.default_rng(bits)
    sent = RingVector(
        numbers.integers(0, 1 << bits, words, dtype=np.uint32),
        numbers.integers(0, 1 << 63, 3, dtype=np.uint64),
        bits,
    )
    data = sent.to_bytes()
    assert len(data) == 24 + -(-words * min(bits, 16) // 8) + -(-words * max(0, bits - 16) // 8)
    assert same(RingVector.from_bytes(data, words, 3, bits), sent)
    with pytest.raises(SecureAggregationError, match="bytes, expected"):
        RingVector.from_bytes(data + b"x", words, 3, bits)
