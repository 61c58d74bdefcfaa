"""The noises of an experiment, each of them optional."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from hqde_fl.errors import ConfigError
from hqde_fl.noise import EntanglementNoise, ExplorationNoise, RegularizationNoise
from hqde_fl.registry import Registry
from hqde_fl.selection import Ensemble
from hqde_fl.simulations.experiment.components import build_component
from hqde_fl.simulations.experiment.sections import ClientsSection, StrategySection

EXPLORATION = Registry("noise", ExplorationNoise, {"exploration": ExplorationNoise})
ENTANGLEMENT = Registry("noise", EntanglementNoise, {"entanglement": EntanglementNoise})
REGULARIZATION = Registry("noise", RegularizationNoise, {"regularization": RegularizationNoise})

T = TypeVar("T")


@dataclass(frozen=True)
class Noises:
    """The noises of an experiment.

    Parameters
    ----------
    exploration : ExplorationNoise, optional
        Noise that the server adds to the aggregated update.
    entanglement : EntanglementNoise, optional
        Noise in the clients' updates that cancels over all clients.
    regularization : RegularizationNoise, optional
        Noise on the clients' gradients.
    """

    exploration: ExplorationNoise | None
    entanglement: EntanglementNoise | None
    regularization: RegularizationNoise | None

    @classmethod
    def build(cls, clients: ClientsSection, strategy: StrategySection) -> Self:
        """Return the noises that the two sections configure; None for each that they leave empty.

        Raises
        ------
        ConfigError
            If a table does not describe its noise.
        """
        return cls(
            _build(EXPLORATION, strategy.exploration_noise, "strategy.exploration-noise"),
            _build(ENTANGLEMENT, clients.entanglement_noise, "clients.entanglement-noise"),
            _build(REGULARIZATION, clients.regularization_noise, "clients.regularization-noise"),
        )

    def check(self, sampled: int, clients: int, ensemble: Ensemble) -> None:
        """Raise ``ConfigError`` if entanglement noise is configured and would not cancel.

        Parameters
        ----------
        sampled : int
            Number of clients that train in a round.
        clients : int
            Number of all clients.
        ensemble : Ensemble
            The assignment of members to clients.
        """
        if self.entanglement is None:
            return
        needs = "clients.entanglement-noise cancels over all clients: it needs"
        if sampled < clients:
            raise ConfigError(f"{needs} strategy.fraction-train = 1, found {sampled} of {clients}")
        if ensemble.trained_members < ensemble.members:
            raise ConfigError(f"{needs} clients.assignment = 'all', found {ensemble.assignment!r}")


def _build(registry: Registry[T], table: Mapping[str, Any], key: str) -> T | None:
    """Return the noise that a table describes, or None for an empty table."""
    if not table:
        return None
    return build_component(registry, {"name": next(iter(registry)), **table}, key)
