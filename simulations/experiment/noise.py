"""What an experiment's noise tables stand for; an empty table is no noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from flwr.clientapp.typing import Mod

from hqde_fl.clients.mods.entanglement_noise import EntanglementNoiseMod
from hqde_fl.errors import ConfigError
from hqde_fl.noise import EntanglementNoise, ExplorationNoise, RegularizationNoise
from hqde_fl.registry import Registry
from hqde_fl.selection import Ensemble
from hqde_fl.simulations.experiment.overrides import check_component
from hqde_fl.strategies.exploration import Exploring
from hqde_fl.strategies.optimizers import ServerOptimizer

EXPLORATION = Registry("noise", ExplorationNoise, {"exploration": ExplorationNoise})
ENTANGLEMENT = Registry("noise", EntanglementNoise, {"entanglement": EntanglementNoise})
REGULARIZATION = Registry("noise", RegularizationNoise, {"regularization": RegularizationNoise})

Table = Mapping[str, Any]


@dataclass(frozen=True)
class Noises:
    """The noises of an experiment.

    Parameters
    ----------
    exploration, entanglement, regularization : Mapping[str, Any]
        Parameters in kebab-case; no noise if empty.
    seed : int
        The run's seed.
    """

    exploration: Table = field(default_factory=dict)
    entanglement: Table = field(default_factory=dict)
    regularization: Table = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def of(cls, strategy: Any, clients: Any, seed: int) -> Self:
        """Those of an experiment's sections."""
        return cls(
            strategy.exploration_noise,
            clients.entanglement_noise,
            clients.regularization_noise,
            seed,
        )

    def check(self, sampled: int, clients: int, ensemble: Ensemble) -> None:
        """Raise ``ConfigError`` for what cannot be.

        Parameters
        ----------
        sampled, clients : int
            Clients asked in a round, and clients in all.
        ensemble : Ensemble
            Who trains which member.
        """
        for key, registry, table in (
            ("strategy.exploration-noise", EXPLORATION, self.exploration),
            ("clients.entanglement-noise", ENTANGLEMENT, self.entanglement),
            ("clients.regularization-noise", REGULARIZATION, self.regularization),
        ):
            check_component(registry, {"name": next(iter(registry)), **table}, key)
        if not self.entanglement:
            return
        needs = "clients.entanglement-noise cancels over all clients: it needs"
        if sampled < clients:
            raise ConfigError(f"{needs} strategy.fraction-train = 1, found {sampled} of {clients}")
        if ensemble.each < ensemble.members:
            raise ConfigError(f"{needs} clients.assignment = 'all', found {ensemble.assignment!r}")

    def around(self, optimizer: ServerOptimizer) -> ServerOptimizer:
        """A server optimiser that is given updates with exploration noise, if there is any."""
        if not self.exploration:
            return optimizer
        noise = EXPLORATION.build({"name": "exploration", **self.exploration})
        return Exploring(noise, optimizer, self.seed)

    def mods(self) -> list[Mod]:
        """Entanglement noise as a Flower mod, if there is any."""
        if not self.entanglement:
            return []
        noise = ENTANGLEMENT.build({"name": "entanglement", **self.entanglement})
        return [EntanglementNoiseMod(noise, self.seed)]

    def on_gradients(self) -> RegularizationNoise | None:
        """Regularisation noise, if there is any."""
        if not self.regularization:
            return None
        return REGULARIZATION.build({"name": "regularization", **self.regularization})
