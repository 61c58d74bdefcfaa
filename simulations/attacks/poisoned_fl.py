"""PoisonedFL: poisoning that is consistent over the rounds (Xie, Fang and Gong, 2025, CVPR).

arXiv:2404.15611. The attackers know the global models that they are sent, and nothing of honest
clients or of the rule. Attacks that are renewed in every round cancel out over the rounds; this one
pushes every weight in one direction for good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge, Memory
from hqde_fl.simulations.attacks.spread import length, require_number
from hqde_fl.updates import Columns

QUANTILE = 2.326
"""The 99 % quantile of the normal distribution, which approximates the binomial one."""


@final
@dataclass(frozen=True)
class PoisonedFL(Attack):
    """PoisonedFL: every weight is pushed in one random direction, fixed for the whole run.

    All attackers send g = c ||h|| k s. s are random signs, drawn once; h is the last global step;
    k = |r| / ||r|| with r = h - (||h|| / ||g'||) g', where g' is the attackers' last update: the
    magnitudes of what honest clients did in the last step. c is ``scale`` at first. Every ``every``
    rounds it is multiplied by ``decay``, but not below ``least``, if fewer than
    d / 2 + 2.326 sqrt(d / 4) signs of the total step since the last such test agree with s: chance
    alone exceeds that in 1 % of all cases, and an attack that is filtered out is no better. In
    the first round there is no step: the attackers send zeros.

    Parameters
    ----------
    scale : float, default=8.0
        The first factor c, > 0.
    decay : float, default=0.7
        Factor of c after a failed test, in (0, 1].
    least : float, default=0.5
        Smallest c, in (0, ``scale``].
    every : int, default=50
        Number of rounds between two tests, >= 1.
    """

    scale: float = 8.0
    decay: float = 0.7
    least: float = 0.5
    every: int = 50

    def __post_init__(self) -> None:
        require_number(self, "scale", 0, above=True)
        if not 0 < self.decay <= 1:
            raise ConfigError(f"PoisonedFL.decay must be in (0, 1], found {self.decay}")
        if not 0 < self.least <= self.scale:
            raise ConfigError(
                f"PoisonedFL.least must be in (0, scale = {self.scale}], found {self.least}"
            )
        if self.every < 1:
            raise ConfigError(f"PoisonedFL.every must be >= 1, found {self.every}")

    def learn(self, honest: Columns, knowledge: AttackerKnowledge) -> Memory:
        """Return the state with the global model, c, and the update to send in this round.

        The attack begins again if the number of weights changes.
        """
        if knowledge.model is None:
            raise ConfigError("PoisonedFL needs the global model")
        now, memory = knowledge.model, dict(knowledge.memory)
        if "model" not in memory or memory["model"].shape != now.shape:
            return {
                "model": now.clone(),
                "tested": now.clone(),
                "sent": torch.zeros_like(now),
                "factor": float(self.scale),
                "rounds": 1,
            }
        signs = self.signs(now, knowledge)
        rounds = int(memory["rounds"])
        if rounds % self.every == 0:
            memory |= {"factor": self._tested(memory, now, signs), "tested": now.clone()}
        sent = memory["factor"] * _magnitudes(now - memory["model"], memory["sent"]) * signs
        return {**memory, "model": now.clone(), "sent": sent, "rounds": rounds + 1}

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the update that ``learn`` computed; zeros in the first round."""
        memory = knowledge.memory if "sent" in knowledge.memory else self.learn(honest, knowledge)
        sent: Tensor = memory["sent"]
        return sent.to(honest.dtype)

    def signs(self, model: Tensor, knowledge: AttackerKnowledge) -> Tensor:
        """Return the signs s (d,), 1 or -1, in the dtype of the model: the same in every round."""
        drawn = torch.randint(
            2, model.shape, generator=knowledge.generator("poisoned-fl"), dtype=torch.int8
        )
        return (2 * drawn - 1).to(model)

    def _tested(self, memory: dict[str, Any], now: Tensor, signs: Tensor) -> float:
        """Return c after a test of whether the model follows the signs."""
        d, factor = now.numel(), float(memory["factor"])
        agreeing = int(((now - memory["tested"]).sign() == signs).sum())
        if agreeing >= d / 2 + QUANTILE * math.sqrt(d / 4):
            return factor
        return max(self.least, self.decay * factor)


def _magnitudes(step: Tensor, sent: Tensor) -> Tensor:
    """Return ||h|| k: the magnitudes of a global step without the attackers' last update."""
    size, own = length(step), length(sent)
    rest = step - (size / own) * sent if own > 0 else step
    total = length(rest)
    return rest.abs() * (size / total) if total > 0 else torch.zeros_like(step)
