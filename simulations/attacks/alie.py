"""The attack "a little is enough" (Baruch, Baruch and Goldberg, 2019, arXiv:1902.06156)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, final

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.columnwise import columnwise
from hqde_fl.updates import Columns

Deviation = Literal["std", "root-std"]


def max_z(n: int, f: int) -> float:
    """Return the paper's z_max = Phi^-1((n - f - s) / (n - f)) with s = floor(n / 2 + 1) - f.

    In each coordinate s honest clients lie beyond z_max and so support the attackers in a majority
    vote. Attackers who are the majority themselves count one supporter, so that z stays finite.
    Minus infinity if there are no more than s honest clients.
    """
    supporters = max(1, n // 2 + 1 - f)
    return NormalDist().inv_cdf((n - f - supporters) / (n - f)) if n - f > supporters else -math.inf


@final
@dataclass(frozen=True)
class ALIE(Attack):
    """A little is enough: the honest mean, shifted by z standard deviations in every coordinate.

    All attackers send x = mean - z std of the honest updates, which lies within their spread and is
    therefore hard to detect.

    Parameters
    ----------
    z : float, default=0.0
        Number of standard deviations, >= 0; 0 for the paper's z_max, which depends on the numbers
        of clients: 0.18 for 3 of 10, not positive for 2 of 10. The paper's experiments use up to
        1.5.
    deviation : {"std", "root-std"}, default="std"
        ``root-std`` shifts by z sqrt(std), as the published code of FLANDERS does; its z is
        Phi((n - f - s) / (n - f)), 0.73 for 20 of 100.
    """

    z: float = 0.0
    deviation: Deviation = "std"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.z) and self.z >= 0):
            raise ConfigError(f"ALIE.z must be finite and >= 0, found {self.z}")
        if self.deviation not in ("std", "root-std"):
            raise ConfigError(
                f"ALIE.deviation must be 'std' or 'root-std', found {self.deviation!r}"
            )

    def check(self, n: int, f: int) -> None:
        """Raise ``ConfigError`` unless 1 <= f < n and z, or for z = 0 its z_max, is > 0."""
        super().check(n, f)
        if self.z == 0 and max_z(n, f) <= 0:
            raise ConfigError(
                f"ALIE.z must be given for {f} attackers among {n} clients, whose z_max of "
                f"{max_z(n, f):.2g} moves nothing; the paper's experiments go up to 1.5"
            )

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return mean - z std of the honest updates, or mean - z sqrt(std) with "root-std".

        If the attack's z is 0, it is the paper's z_max, or 0 if that is negative.
        """
        z = self.z or max(0.0, max_z(honest.shape[0] + f, f))

        def shifted_mean(tile: Tensor) -> Tensor:
            std = tile.std(dim=0, correction=0)
            return tile.mean(dim=0) - z * (std if self.deviation == "std" else std.sqrt())

        return columnwise(shifted_mean, honest)
