"""A client's end of a secure sum: four answers to a server that it does not trust.

1. ``advertise``: two public keys, one for shares, one for masks.
2. ``share``: its mask key and the seed of its own mask, in encrypted shares for all others.
3. ``masked``: its vector plus the mask of its own seed, and plus or minus one mask for each other
   client that it agreed on a key with.
4. ``unmask``: of each client that stayed its share of the seed, of each that dropped out its share
   of the mask key; never both of one client.

Each answer is given once. What is kept between them is one record, which the last answer erases. A
server that tells clients different things, or asks again, learns no update as long as it has fewer
clients on its side than twice the threshold less the bucket's size (Bonawitz et al., 2017).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, final

from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secure_sums.keys import (
    KEY_BYTES,
    agreed_key,
    decrypt,
    encrypt,
    mask,
    new_key,
    new_seed,
    public_key,
    secret_hash,
)
from hqde_fl.privacy.secure_sums.ring import RingVector
from hqde_fl.privacy.secure_sums.shares import SHARE_BYTES, split

Stage = Literal["advertised", "shared", "masked"]

MIN_CLIENTS, MAX_CLIENTS = 3, 128


@final
@dataclass(frozen=True)
class PublicKeys:
    """The public keys of a client in one sum.

    Parameters
    ----------
    cipher : bytes
        The key with which others encrypt shares for it.
    masking : bytes
        The key from which pairs of clients derive their masks.
    signer, signature : bytes
        The public key of the client's site, and its signature; empty without one.
    """

    cipher: bytes
    masking: bytes
    signer: bytes = field(default=b"", compare=False)
    signature: bytes = field(default=b"", compare=False)

    def __post_init__(self) -> None:
        if len(self.cipher) != KEY_BYTES or len(self.masking) != KEY_BYTES:
            raise SecureAggregationError(f"a public key has {KEY_BYTES} bytes")


@final
@dataclass(frozen=True)
class Commitment:
    """Hashes by which the server recognises what is revealed of a client's secrets.

    Parameters
    ----------
    seed : bytes
        That of the seed of its mask; its mask key is recognised by the public one.
    shares : Mapping[int, tuple[bytes, bytes]]
        Holder -> those of its shares of the seed and of the mask key.
    """

    seed: bytes
    shares: Mapping[int, tuple[bytes, bytes]]


@final
@dataclass(frozen=True)
class SecureClient:
    """The state of a client in a sum until it ends.

    Parameters
    ----------
    session : str
        Names the sum: the run, the round and the bucket. Keys are derived for it alone.
    number : int
        The client's number in the bucket, from 1.
    cipher_key, masking_key : bytes
        Its private keys.
    seed : bytes
        The seed of its own mask.
    stage : "advertised", "shared" or "masked"
        Its last answer.
    threshold : int
        Clients that must stay until the end; 0 until the server has told.
    peers : Mapping[int, PublicKeys]
        All clients of the bucket by number, itself among them.
    own_shares : bytes
        Its own shares of its two secrets.
    encrypted : Mapping[int, bytes]
        What the others have encrypted for it.
    """

    session: str
    number: int
    cipher_key: bytes
    masking_key: bytes
    seed: bytes
    stage: Stage = "advertised"
    threshold: int = 0
    peers: Mapping[int, PublicKeys] | None = None
    own_shares: bytes = b""
    encrypted: Mapping[int, bytes] | None = None

    @classmethod
    def new(cls, session: str, number: int) -> SecureClient:
        """Return a client with new keys, which come from the operating system."""
        return cls(session, number, new_key(), new_key(), new_seed())

    @property
    def public_keys(self) -> PublicKeys:
        """The public keys that it advertises."""
        return PublicKeys(public_key(self.cipher_key), public_key(self.masking_key))

    def share(
        self, peers: Mapping[int, PublicKeys], threshold: int
    ) -> tuple[SecureClient, dict[int, bytes], Commitment]:
        """Return the next state, encrypted shares for the others by number, and a commitment.

        Parameters
        ----------
        peers : Mapping[int, PublicKeys]
            The keys of all clients of the bucket by number, its own among them.
        threshold : int
            Clients that must stay until the end.

        Raises
        ------
        SecureAggregationError
            If the server's list would let it learn an update: too few clients, a threshold of half
            of them or less, other keys in this client's name, or one key twice.
        """
        self._expect("advertised")
        if not (threshold >= MIN_CLIENTS and 2 * threshold > len(peers) >= threshold):
            raise SecureAggregationError(
                f"a threshold of {threshold} among {len(peers)} clients is not safe (at least "
                f"{MIN_CLIENTS}, and more than half)"
            )
        if outside := [number for number in peers if not 1 <= number <= MAX_CLIENTS]:
            raise SecureAggregationError(
                f"clients of a bucket have numbers in 1..{MAX_CLIENTS}, found {outside[0]}"
            )
        if peers.get(self.number) != self.public_keys:
            raise SecureAggregationError("the server has put other keys in the place of its own")
        keys = [key for one in peers.values() for key in (one.cipher, one.masking)]
        if len(set(keys)) != len(keys):
            raise SecureAggregationError("two clients of a bucket have the same public key")
        seeds = split(self.seed, threshold, max(peers))
        masking = split(self.masking_key, threshold, max(peers))
        encrypted = {
            other: encrypt(
                agreed_key(self.cipher_key, keys.cipher, self._purpose(self.number, other)),
                seeds[other] + masking[other],
                self._purpose(self.number, other),
            )
            for other, keys in peers.items()
            if other != self.number
        }
        state = replace(
            self,
            stage="shared",
            threshold=threshold,
            peers=dict(peers),
            own_shares=seeds[self.number] + masking[self.number],
        )
        hashes = {
            other: (secret_hash(seeds[other]), secret_hash(masking[other])) for other in peers
        }
        return state, encrypted, Commitment(secret_hash(self.seed), hashes)

    def check_stays(self, encrypted: Mapping[int, bytes]) -> None:
        """Raise unless a sum with the senders of these shares may go on.

        Raises
        ------
        SecureAggregationError
            If there are fewer than the threshold, or unknown ones among them.
        """
        self._expect("shared")
        assert self.peers is not None
        if unknown := encrypted.keys() - self.peers.keys():
            raise SecureAggregationError(f"client {min(unknown)} is not in the bucket")
        if len(encrypted.keys() | {self.number}) < self.threshold:
            raise SecureAggregationError(
                f"{len(encrypted) + 1} clients are left, the threshold is {self.threshold}"
            )

    def masked(
        self, encrypted: Mapping[int, bytes], vector: RingVector
    ) -> tuple[SecureClient, RingVector]:
        """Return the next state, and the vector under its masks.

        Parameters
        ----------
        encrypted : Mapping[int, bytes]
            Sender -> the encrypted shares for this client; those that sent none have dropped out.
        vector : RingVector
            The client's own.

        Raises
        ------
        SecureAggregationError
            As ``check_stays`` does.
        """
        self.check_stays(encrypted)
        assert self.peers is not None
        result = vector + mask(self.seed, vector)
        for other in encrypted.keys() - {self.number}:
            pair = pair_mask(self.masking_key, self.peers[other].masking, self.session, vector)
            result = result + pair if other > self.number else result - pair
        return replace(self, stage="masked", encrypted=dict(encrypted), seed=b""), result

    def unmask(self, stayed: Collection[int]) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Return its shares of the seeds of those that stayed, and of the keys of those that left.

        The client must forget its state before it sends them.

        Parameters
        ----------
        stayed : Collection[int]
            The clients whose masked vectors the server has.

        Raises
        ------
        SecureAggregationError
            If these are fewer than the threshold, or others than those that shared their secrets,
            or a share has been changed on its way.
        """
        self._expect("masked")
        assert self.encrypted is not None
        assert self.peers is not None
        took_part = self.encrypted.keys() | {self.number}
        if unknown := set(stayed) - took_part:
            raise SecureAggregationError(f"client {min(unknown)} has not shared its secrets")
        if len(set(stayed)) < self.threshold:
            raise SecureAggregationError(
                f"{len(set(stayed))} clients stayed, the threshold is {self.threshold}"
            )
        seeds, keys = {}, {}
        for owner in sorted(took_part):
            shares = self._shares_of(owner)
            if owner in stayed:
                seeds[owner] = shares[:SHARE_BYTES]
            else:
                keys[owner] = shares[SHARE_BYTES:]
        return seeds, keys

    def _shares_of(self, owner: int) -> bytes:
        if owner == self.number:
            return self.own_shares
        assert self.encrypted is not None
        assert self.peers is not None
        purpose = self._purpose(owner, self.number)
        key = agreed_key(self.cipher_key, self.peers[owner].cipher, purpose)
        shares = decrypt(key, self.encrypted[owner], purpose)
        if len(shares) != 2 * SHARE_BYTES:
            raise SecureAggregationError(f"client {owner} has sent {len(shares)} bytes of shares")
        return shares

    def _purpose(self, sender: int, receiver: int) -> str:
        return f"hqde secure aggregation: shares\n{self.session}\n{sender}\n{receiver}"

    def _expect(self, stage: Stage) -> None:
        if self.stage != stage:
            raise SecureAggregationError(
                f"a client that has {self.stage} is asked what only one that has {stage} answers"
            )


def pair_mask(private: bytes, public: bytes, session: str, like: RingVector) -> RingVector:
    """Return the mask on which the owners of two keys agree, as long as a vector."""
    key = agreed_key(private, public, f"hqde secure aggregation: mask\n{session}")
    return mask(key, like)
