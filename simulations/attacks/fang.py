"""Fang et al.'s attack on Krum, called OPT in FLANDERS (USENIX Security 2020, arXiv:1911.11815)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.krum import krum_scores, rank_by_score
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge, Memory
from hqde_fl.simulations.attacks.columnwise import mean_sign
from hqde_fl.simulations.attacks.update_span import UpdateSpan
from hqde_fl.updates import Columns

Against = Literal["update", "model", "first-model"]


@final
@dataclass(frozen=True)
class Fang(Attack):
    """Fang et al.: against the sign of the honest mean, as far as Krum still selects an attacker.

    The attackers send w - lambda s, where w is the global model and s the sign of the honest mean
    update: their update is -lambda s. lambda starts at the paper's upper bound and is halved until
    Krum, over all n updates, selects one of theirs, or lambda falls below ``threshold``.

    Parameters
    ----------
    against : {"update", "model", "first-model"}, default="update"
        ``update`` is the paper's attack. With ``model`` s is the sign of the global model's
        weights. With ``first-model``, as in the published code of FLANDERS, both s and w come from
        the first model that the attackers received, or the first with the present number of
        weights.
    threshold : float, default=1e-5
        Smallest lambda, > 0.
    """

    against: Against = "update"
    threshold: float = 1e-5

    def __post_init__(self) -> None:
        known = get_args(Against)
        if self.against not in known:
            raise ConfigError(
                f"Fang.against must be one of {', '.join(known)}, found {self.against!r}"
            )
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ConfigError(f"Fang.threshold must be finite and > 0, found {self.threshold}")

    def learn(self, honest: Columns, knowledge: AttackerKnowledge) -> Memory:
        """Return the state, to which ``against="first-model"`` adds the first global model."""
        first = knowledge.memory.get("model")
        if self.against != "first-model" or (first is not None and first.shape == honest.shape[1:]):
            return knowledge.memory
        return {**knowledge.memory, "model": _model(knowledge)}

    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return start - lambda s, with the largest lambda tried for which Krum selects it.

        start is 0, or with "first-model" that model minus the present one; s is a sign (d,), see
        ``against``. Without such a lambda, it is one not above ``threshold``.
        """
        if self.against == "update":
            span = UpdateSpan(honest, (mean_sign(honest),))
            start, sign = span.origin(), span.row(0)
        else:
            now = _model(knowledge)
            origin = knowledge.memory.get("model", now)
            span = UpdateSpan(honest, (origin.sign().to(now), origin - now))
            start, sign = span.row(1), span.row(0)
        strength = _upper_bound(span, f, start)
        while strength > self.threshold and not _selected(span, f, start - strength * sign):
            strength /= 2
        return span.vector(start - strength * sign)


def _model(knowledge: AttackerKnowledge) -> Tensor:
    if knowledge.model is None:
        raise ConfigError("Fang.against 'model' and 'first-model' need the global model")
    return knowledge.model


def _upper_bound(span: UpdateSpan, f: int, start: Tensor) -> float:
    """Return the paper's upper bound on lambda, from distances of the h = n - f honest updates.

    min_i (sum of the distances to the h - 2 nearest) / ((n - 2f - 1) sqrt d)
    + max_i ||x_i - start|| / sqrt d.
    """
    (h, d), geometry = span.honest.shape, span.geometry
    among = geometry.squared_distances()[:h, :h].sqrt()
    others = among.clone().fill_diagonal_(torch.inf)
    nearest = others.topk(min(max(1, h - 2), h - 1), dim=1, largest=False).values.sum(dim=1)
    furthest = geometry.squared_distances_to(start)[:h].max().sqrt()
    bound = float(nearest.min()) / max(1, h - f - 1) + float(furthest)
    return geometry.unit * bound / math.sqrt(d)


def _selected(span: UpdateSpan, f: int, point: Tensor) -> bool:
    """Return True if Krum selects one of f copies of a point rather than an honest update."""
    rows = torch.cat([span.honest_rows(), point.expand(f, -1)])
    squared = span.geometry.mixed(rows).squared_distances()
    return int(rank_by_score(krum_scores(squared, f), squared)[0]) >= span.honest.shape[0]
