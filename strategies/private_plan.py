"""Central differential privacy of a strategy: what it needs of other settings, and its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

from hqde_fl.errors import CheckpointError, ConfigError
from hqde_fl.privacy import Accountant, CentralDP, Sampling
from hqde_fl.privacy.composition import Composition
from hqde_fl.privacy.ledger import Ledger, PrivacyState
from hqde_fl.privacy.mechanism import GaussianMechanism
from hqde_fl.rules import Aggregator
from hqde_fl.selection import Selector
from hqde_fl.strategies.state import ModelState


@final
@dataclass(frozen=True, eq=False)
class PrivatePlan:
    """Differential privacy of a run, checked against all other settings.

    Parameters
    ----------
    privacy : CentralDP
        Its settings.
    sampling : Sampling
        The sampling of clients.
    accountant : Accountant
        Computes what is spent.
    composition : Composition
        The rule as differential privacy sees it.
    """

    privacy: CentralDP
    sampling: Sampling
    accountant: Accountant
    composition: Composition

    @classmethod
    def of(
        cls, privacy: CentralDP, selector: Selector, clients: int, rule: Aggregator, members: int
    ) -> Self:
        """Return the plan of a strategy.

        Parameters
        ----------
        privacy : CentralDP
            The settings of differential privacy.
        selector : Selector
            Chooses the clients of a round.
        clients : int
            The number of all clients.
        rule : Aggregator
            Merges the updates.
        members : int
            The number of members of the ensemble.

        Raises
        ------
        ConfigError
            If one of them does not go together with differential privacy: which, and why.
        """
        sampling = Sampling.of(selector, clients)
        if sampling.expected < 1:
            raise ConfigError(
                "Participation.min_available_nodes must be the number of all clients, of whom at "
                "least 1 is expected in a round with differential privacy, found "
                f"{clients} ({sampling})"
            )
        composition = Composition.of(rule, sampling)
        if composition.refusal is not None:
            raise ConfigError(
                "Aggregation.rule must be one of bounded sensitivity with differential privacy, "
                f"found {rule}: {composition.refusal}"
            )
        if composition.clipping is None and members > 1:
            raise ConfigError(
                "Aggregation.rule must be a mean or a chain of clippings and a mean where an "
                f"ensemble's members are clipped together, found {rule}"
            )
        accountant = Accountant(privacy.accountant, sampling, privacy.delta)
        return cls(privacy, sampling, accountant, composition)

    @property
    def warning(self) -> str | None:
        """A line if delta is too large to mean anything; else None."""
        bound = 1 / self.sampling.clients
        if self.privacy.delta < bound:
            return None
        return (
            f"delta = {self.privacy.delta:g} is not below 1 / clients = {bound:g}: a mechanism "
            "that publishes one client's update may satisfy it"
        )

    def check_models(self, models: Sequence[ModelState], *, merges_statistics: bool) -> None:
        """Raise ``ConfigError`` if models tell more of the data than the noised weights.

        Roles that are inferred from replies do, and statistics that are merged.
        """
        for model in models:
            if model.layout.inferred:
                raise ConfigError(
                    "HQDEStrategy.roles must be given with differential privacy (roles_of(model)): "
                    "roles that are inferred from replies depend on the clients' data"
                )
            statistics = [e.name for e in model.layout.others if e.role == "statistics"]
            if statistics and merges_statistics:
                raise ConfigError(
                    "Aggregation.buffers must be 'local' with differential privacy, as merged "
                    f"statistics of the clients' data have no noise, found {statistics[0]!r} and "
                    "'merge'"
                )

    def multiplier(self, rounds: int | None) -> float:
        """Return the noise multiplier of a new run.

        Raises
        ------
        ConfigError
            If it would have to be calibrated and the number of rounds is not known.
        """
        if self.privacy.noise_multiplier:
            return self.privacy.noise_multiplier
        if rounds is None:
            raise ConfigError(
                "CentralDP.noise_multiplier must be given inside another strategy, which does not "
                f"tell the number of rounds, found target_epsilon = {self.privacy.target_epsilon:g}"
            )
        return self.accountant.multiplier(self.privacy.target_epsilon, max(1, rounds))

    def state(self, known: PrivacyState | None, ledger: Ledger, rounds: int | None) -> PrivacyState:
        """Return the state with which a run begins or goes on: all that was ever released is in it.

        Parameters
        ----------
        known : PrivacyState, optional
            That of the checkpoint; None if the run begins, or begins again.
        ledger : Ledger
            The releases of earlier processes.
        rounds : int or None
            The number of the run's rounds, if known.

        Raises
        ------
        CheckpointError
            If the ledger lacks a release that the checkpoint knows, or their noise differs.
        """
        releases = ledger.read()
        multipliers = {release.multiplier for release in releases}
        if known is None:
            multiplier = multipliers.pop() if multipliers else self.multiplier(rounds)
            known = PrivacyState(multiplier, self.privacy.clipping_norm)
        recorded = {(release.round, release.digest) for release in releases}
        spent = {(number, d) for number, digests in known.releases.items() for d in digests}
        if ((releases or ledger.durable) and spent - recorded) or multipliers - {known.multiplier}:
            raise CheckpointError(
                "the record of privacy spent is not that of this run: "
                f"{len(spent - recorded)} of {len(spent)} releases are missing in it, "
                f"noise multipliers {sorted(multipliers)}, expected {known.multiplier:g}"
            )
        for release in releases:
            known = known.with_release(release.round, release.digest)
        return known

    def epsilon(self, state: PrivacyState) -> float:
        """Return the epsilon that has been spent."""
        return self.accountant.epsilon(state.multiplier, state.counts)

    def exhausted(self, state: PrivacyState, number: int) -> str | None:
        """Return why a round must not begin: it would exceed the budget; None if it may.

        A round that was released before may be repeated: what comes out decides.
        """
        if number in state.releases:
            return None
        after = self.epsilon(state.with_release(number, ""))
        if after <= self.privacy.budget:
            return None
        return (
            f"the privacy budget is spent: round {number} would make epsilon {after:.4g}, the "
            f"limit is {self.privacy.budget:g} (delta = {self.privacy.delta:g}), spent are "
            f"{self.epsilon(state):.4g}"
        )

    def mechanism(self, state: PrivacyState) -> GaussianMechanism:
        """Return the mechanism of the next round."""
        privacy = self.privacy
        return GaussianMechanism(
            state.clipping_norm,
            state.multiplier,
            self.sampling.expected,
            privacy.noise,
            privacy.adaptive,
        )
