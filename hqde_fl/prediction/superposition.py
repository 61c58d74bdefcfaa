"""Superposition of predictions: members weighted by the softmax of their confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.prediction.base import Vote, normalised_entropy, overlaps, weighted_sum
from hqde_fl.seeding import Seeds


@final
@dataclass(frozen=True)
class SuperpositionVote(Vote):
    """A vote with weights |a_i|^2, a = sqrt(softmax(confidence / T)), example by example.

    Its classical twin is a softly weighted vote.

    Parameters
    ----------
    temperature : float
        T > 0: towards 0 only the most confident member counts, towards infinity all count the same.
    confidence : "agreement" or "certainty"
        A member's mean overlap with the other members' predictions, or 1 minus the normalised
        entropy of its own.
    scores : tuple of float
        A fixed confidence of each member instead, for instance its accuracy on held-out data;
        empty for none.
    amplitudes : "born" or "raw"
        ``"raw"`` is HQDE's original, sum a_i p_i + N(0, noise_scale^2): it sums to sqrt(m) for m
        equal members, and is no distribution unless ``renormalised``. For comparison.
    renormalised : bool
        True to make a distribution of the raw sum: negative numbers become zero, the sum one.
    noise_scale : float
        Standard deviation of the raw sum's noise, finite.
    seed : int
        Seed of that noise.
    """

    temperature: float = 0.25
    confidence: Literal["agreement", "certainty"] = "agreement"
    scores: tuple[float, ...] = ()
    amplitudes: Literal["born", "raw"] = "born"
    renormalised: bool = False
    noise_scale: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"SuperpositionVote needs temperature > 0, found {self.temperature}")
        if not 0 <= self.noise_scale < math.inf:
            raise ConfigError(
                f"SuperpositionVote needs finite noise_scale >= 0, found {self.noise_scale}"
            )
        if not all(map(math.isfinite, self.scores)):
            raise ConfigError(f"SuperpositionVote needs finite scores, found {self.scores}")
        if self.amplitudes == "born" and (self.renormalised or self.noise_scale):
            raise ConfigError(
                "SuperpositionVote's renormalised and noise_scale need amplitudes = 'raw', "
                "found 'born'"
            )
        for name, known in (
            ("confidence", ("agreement", "certainty")),
            ("amplitudes", ("born", "raw")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"SuperpositionVote needs {name} among {', '.join(known)}: "
                    f"{getattr(self, name)!r}"
                )

    def combine(self, probabilities: Tensor) -> Tensor:
        """Return the members' weighted sum (n, c), HQDE's own with ``amplitudes="raw"``."""
        confidence = self._confidence(probabilities)
        # the softmax of confidence / T, which overflows where T is tiny
        squared = ((confidence - confidence.amax(dim=0)) / self.temperature).softmax(dim=0)
        if self.amplitudes == "born":
            return weighted_sum(squared, probabilities)
        total = weighted_sum(squared.sqrt(), probabilities)
        if self.noise_scale > 0:
            generator = Seeds(self.seed).torch("superposition", *total.shape)
            noise = torch.randn(total.shape, generator=generator) * self.noise_scale
            total = total + noise.to(total)
        if not self.renormalised:
            return total
        positive = total.clamp(min=0)
        whole = positive.sum(dim=1, keepdim=True)
        return torch.where(whole > 0, positive / whole, 1 / total.shape[1])

    def _confidence(self, probabilities: Tensor) -> Tensor:
        """Return each member's confidence in each example, (m, n)."""
        members, examples, _ = probabilities.shape
        if self.scores:
            if len(self.scores) != members:
                raise ConfigError(
                    f"SuperpositionVote needs one score for each of {members} members, "
                    f"found {len(self.scores)}"
                )
            scores = torch.tensor(self.scores, dtype=probabilities.dtype)
            return scores.to(probabilities.device)[:, None].expand(members, examples)
        if self.confidence == "certainty":
            return 1 - normalised_entropy(probabilities)
        return overlaps(probabilities).sum(dim=2).T / max(1, members - 1)
