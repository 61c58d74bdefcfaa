"""Merge the means of buckets into the next model, and record what became of their clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Cohort
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.outcomes import FAILED, REJECTED, outcome_of
from hqde_fl.strategies.round import aggregation
from hqde_fl.strategies.round.aggregation import MergedModel
from hqde_fl.strategies.round.round_log import RoundLog
from hqde_fl.strategies.round.secure_buckets import BucketMean
from hqde_fl.strategies.round.secure_round import SecureRound
from hqde_fl.strategies.settings import StrategySettings
from hqde_fl.strategies.state import ModelState


@final
@dataclass(frozen=True, eq=False)
class BucketMeans:
    """The means of a round's buckets.

    Parameters
    ----------
    buckets : Sequence[BucketMean]
        All buckets that were dealt; some may be void.
    """

    buckets: Sequence[BucketMean]

    @property
    def nodes(self) -> dict[int, Sequence[int]]:
        """Bucket -> its nodes, of those that have a sum."""
        return {bucket.place: bucket.nodes for bucket in self.buckets if not bucket.void}

    @property
    def diagnostics(self) -> dict[str, Any]:
        """Numbers for the round's record."""
        clients = sum(len(nodes) for nodes in self.nodes.values())
        clipped = sum(bucket.clipped for bucket in self.buckets)
        return {
            "buckets": len(self.buckets),
            "void-buckets": sum(bucket.void is not None for bucket in self.buckets),
            "clipped": clipped / clients if clients else 0.0,
        }

    def merge(
        self,
        settings: StrategySettings,
        models: Sequence[ModelState],
        server_round: int,
        seeds: Sequence[Seeds],
        secure: SecureRound,
        round_log: RoundLog,
    ) -> list[MergedModel]:
        """Return each member merged from the means of its buckets, one row of the rule for each.

        A void bucket counts as a faulty client if one of its clients was rejected or failed, or has
        lied; if clients were only late, as a late one.

        Parameters
        ----------
        settings : StrategySettings
            The rule and the server optimiser.
        models : Sequence[ModelState]
            The members as the round began.
        server_round : int
            The round.
        seeds : Sequence[Seeds]
            The seeds of each member.
        secure : SecureRound
            Knows who has not answered a question, or wrongly.
        round_log : RoundLog
            Knows what became of the training of the others.
        """
        merged = []
        for member, model in enumerate(models):
            own = [b for b in self.buckets if member in b.members]
            replies: dict[int, Accepted] = {
                b.place: b.accepted[member] for b in own if b.void is None
            }
            void = [b for b in own if b.void is not None]
            faulty = sum(self._is_faulty(bucket, secure, round_log) for bucket in void)
            cohort = Cohort(
                tuple(replies),
                tuple(self._examples(settings, b) for b in own if b.void is None),
                faulty=faulty,
                late=len(void) - faulty,
                round=server_round,
                seed=seeds[member].root,
            )
            density = settings.reporting.density
            merged.append(
                aggregation.merge_model(settings.aggregation, density, model, replies, cohort)
            )
        return merged

    @staticmethod
    def _is_faulty(bucket: BucketMean, secure: SecureRound, round_log: RoundLog) -> bool:
        """Return True if a void bucket is so because of clients that are more than late."""
        reasons = []
        for node in bucket.dealt:
            own = None if node in secure.absent else round_log.client(node).reason
            reasons.append(secure.questions.causes.get(node, own))
        return bucket.is_broken or any(outcome_of(r) in (REJECTED, FAILED) for r in reasons)

    @staticmethod
    def _examples(settings: StrategySettings, bucket: BucketMean) -> float:
        """Return a bucket's number of examples; that of a client, where the server trains, too."""
        reply = next(iter(bucket.accepted.values()))
        trains = "reference" in settings.aggregation.rule.needs
        return reply.num_examples / (len(bucket.nodes) if trains else 1)

    def record(self, secure: SecureRound, round_log: RoundLog) -> None:
        """Record the clients' buckets, the bytes of all questions, and which buckets are void."""
        for bucket in self.buckets:
            for node in bucket.dealt:
                round_log.update(node, bucket=bucket.place)
            if bucket.void is not None:
                void = f"{FAILED}: its bucket is void: {bucket.void}"
                for node in bucket.nodes:
                    round_log.update(node, reason=secure.questions.causes.get(node, void))
        for node, (down, up) in secure.questions.traffic.items():
            round_log.add_traffic(node, down, up)
