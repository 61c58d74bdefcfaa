"""Attacks that go as far as a detector lets them: white box, by a line search.

Min-Max and Min-Sum (Shejwalkar and Houmansadr, 2021, NDSS) bound their length by distances between
honest updates, whatever the server does. This variant is adaptive: the attackers know the honest
updates, the rule and its state, run the rule themselves, and push as far as it lets them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules import RULES
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge, Memory
from hqde_fl.simulations.attacks.evasion import check_detector, evades, largest_evading
from hqde_fl.simulations.attacks.min_max import MinMax
from hqde_fl.simulations.attacks.spread import honest_mean, require_number, with_own_noise
from hqde_fl.updates import Columns


@final
@dataclass(frozen=True)
class Evasive(Attack):
    """Evasive: another attack's push, as long as it may be without being detected.

    x_k = mean + t (a - mean) + noise std z_k, where a is the update of ``attack`` (Min-Max,
    Min-Sum or any other), z_k is standard normal, new for each attacker and round, and t is the
    largest in [0, ``limit``] that a line search finds for which the rule filters no attacker and
    leaves them ``share`` of the influence that equal weights would give them.

    Parameters
    ----------
    attack : Attack, default=MinMax()
        The attack that gives the direction and, with t = 1, the length.
    detector : str, default=""
        Name of the rule to evade, such as ``byzantine-filter`` or ``robust``, with its defaults and
        without memory; "" for the rule in use with its settings and state.
    share : float, default=0.9
        Least influence of the attackers relative to that of equal weights, in [0, 1]. Of a rule
        that filters nobody this is what may not be noticed.
    limit : float, default=3.0
        Largest t, > 0.
    noise : float, default=0.3
        Standard deviation of an attacker's own noise in multiples of that of the honest updates,
        >= 0, against detectors of copies.
    tries : int, default=24
        Number of times that the rule is tried, >= 3.
    """

    needs_rule = True

    attack: Attack = field(default_factory=MinMax)
    detector: str = ""
    share: float = 0.9
    limit: float = 3.0
    noise: float = 0.3
    tries: int = 24

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise ConfigError(f"Evasive.attack must be an attack, found {self.attack!r}")
        check_detector("Evasive.detector", self.detector)
        if not 0 <= self.share <= 1:
            raise ConfigError(f"Evasive.share must be in [0, 1], found {self.share}")
        require_number(self, "limit", 0, above=True)
        require_number(self, "noise", 0)
        if self.tries < 3:
            raise ConfigError(f"Evasive.tries must be >= 3, found {self.tries}")

    def check(self, n: int, f: int) -> None:
        """Raise ``ConfigError`` if f attackers among n clients would have no effect."""
        super().check(n, f)
        self.attack.check(n, f)

    def learn(self, honest: Columns, knowledge: AttackerKnowledge) -> Memory:
        """Return the new state of the attack that gives the direction."""
        return self.attack.learn(honest, knowledge)

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the updates (f, d) with the largest push found that the rule does not notice."""
        mean = honest_mean(honest)
        push = torch.atleast_2d(self.attack.forge(honest, f, knowledge)) - mean
        start = torch.atleast_2d(with_own_noise(mean, honest, self.noise, knowledge, "evasive"))
        known = (knowledge.rule, knowledge.state)
        detector = (RULES.build(self.detector), {}) if self.detector else known

        def rows(t: float) -> Tensor:
            pushed: Tensor = start + t * push
            return pushed.expand(f, -1)

        def evaded(t: float) -> bool:
            return evades(rows(t), honest, knowledge, detector, self.share)

        return rows(largest_evading(evaded, self.limit, self.tries))
