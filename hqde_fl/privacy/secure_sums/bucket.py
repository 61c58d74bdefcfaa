"""The server's end of a secure sum: it forwards what clients encrypt, and takes masks off a sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import final

from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secure_sums.client import Commitment, PublicKeys, pair_mask
from hqde_fl.privacy.secure_sums.keys import (
    agreed_key,
    mask,
    new_key,
    public_key,
    secret_hash,
    total,
)
from hqde_fl.privacy.secure_sums.ring import RingVector
from hqde_fl.privacy.secure_sums.shares import recover

Shares = Mapping[int, bytes]


@final
@dataclass(eq=False)
class Bucket:
    """The server's record of one bucket in one round.

    Parameters
    ----------
    session : str
        Names the sum, as clients are told.
    threshold : int
        Clients that must stay until the end.

    Attributes
    ----------
    keys : dict[int, PublicKeys]
        Number in the bucket -> what the client advertised.
    shares : dict[int, Shares]
        Sender -> receiver -> the encrypted shares.
    commitments : dict[int, Commitment]
        Sender -> the hashes of its secrets.
    masked : dict[int, RingVector]
        Client -> its masked vector.
    seed_shares, key_shares : dict[int, dict[int, bytes]]
        Owner -> holder -> the share that the holder has revealed.
    """

    session: str
    threshold: int
    keys: dict[int, PublicKeys] = field(default_factory=dict)
    shares: dict[int, Shares] = field(default_factory=dict)
    commitments: dict[int, Commitment] = field(default_factory=dict)
    masked: dict[int, RingVector] = field(default_factory=dict)
    seed_shares: dict[int, dict[int, bytes]] = field(default_factory=dict)
    key_shares: dict[int, dict[int, bytes]] = field(default_factory=dict)

    def add_keys(self, client: int, keys: PublicKeys) -> None:
        """Keep the keys that a client advertises.

        Raises
        ------
        SecureAggregationError
            If another client of the bucket has advertised one of them, or one is no key: all others
            would stop.
        """
        for key in (keys.cipher, keys.masking):
            agreed_key(new_key(), key, "hqde secure aggregation: a key that can be used")
        known = {key for one in self.keys.values() for key in (one.cipher, one.masking)}
        if keys.cipher == keys.masking or {keys.cipher, keys.masking} & known:
            raise SecureAggregationError("a public key that another client of the bucket has")
        self.keys[client] = keys

    def add_shares(self, sender: int, shares: Shares, hashes: Commitment) -> None:
        """Keep what a client has encrypted for all others that advertised keys.

        Raises
        ------
        SecureAggregationError
            If there is not one share for each of them.
        """
        if shares.keys() != self.keys.keys() - {sender}:
            raise SecureAggregationError(
                f"shares for {len(shares)} clients, expected {len(self.keys) - 1}"
            )
        if hashes.shares.keys() != self.keys.keys():
            raise SecureAggregationError(
                f"hashes of {len(hashes.shares)} shares, expected {len(self.keys)}"
            )
        self.shares[sender], self.commitments[sender] = shares, hashes

    def shares_for(self, receiver: int) -> dict[int, bytes]:
        """Return sender -> the shares for a client, of all others that have sent some."""
        return {
            sender: shares[receiver] for sender, shares in self.shares.items() if sender != receiver
        }

    def add_revealed(self, holder: int, seeds: Shares, keys: Shares) -> None:
        """Keep the shares that a client reveals, but for those that its owners have not shared.

        Raises
        ------
        SecureAggregationError
            If they are not those of the seeds of all that stayed and the keys of all that left, or
            some have not the hash that their owner has told: these are left out.
        """
        left = self.shares.keys() - self.masked.keys()
        if seeds.keys() != self.masked.keys() or keys.keys() != left:
            raise SecureAggregationError(
                f"shares of {len(seeds)} seeds and {len(keys)} keys, expected "
                f"{len(self.masked)} and {len(left)}"
            )
        wrong = []
        for kept, kind, revealed in ((self.seed_shares, 0, seeds), (self.key_shares, 1, keys)):
            for owner, share in revealed.items():
                if secret_hash(share) == self.commitments[owner].shares[holder][kind]:
                    kept.setdefault(owner, {})[holder] = share
                else:
                    wrong.append(owner)
        if wrong:
            raise SecureAggregationError(
                f"its share of client {wrong[0]}'s secret is not the one that was shared"
            )

    def shortage(self, clients: Collection[int], what: str) -> str | None:
        """Return that too few clients have done something for a sum; None if they are enough."""
        if len(clients) >= self.threshold:
            return None
        return f"{len(clients)} clients {what}, the threshold is {self.threshold}"

    def total(self) -> RingVector:
        """Return the sum of the vectors of all clients that stayed, without masks.

        Raises
        ------
        SecureAggregationError
            If too few clients stayed or revealed their shares, or shares are wrong.
        """
        if reason := self.shortage(self.masked, "sent a masked update"):
            raise SecureAggregationError(reason)
        result = total(list(self.masked.values()))
        for client in self.masked:
            shares, expected = self.seed_shares.get(client, {}), self.commitments[client].seed
            seed = recover(shares, self.threshold, secret_hash, expected, client)
            result = result - mask(seed, result)
        for left in self.shares.keys() - self.masked.keys():
            shares, expected = self.key_shares.get(left, {}), self.keys[left].masking
            key = recover(shares, self.threshold, public_key, expected, left)
            for stayed in self.masked:
                pair = pair_mask(key, self.keys[stayed].masking, self.session, result)
                # the client that stayed has added it if the other's number is larger
                result = result - pair if left > stayed else result + pair
        return result
