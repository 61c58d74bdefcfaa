"""FoolsGold: less weight for clients that agree too well (Fung et al., 2020, arXiv:1808.04866)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.client_sketches import places_row, remembered, sketch_tile, sketches_of
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.rules.round_context import Need

SAME = 1e-9
"""Histories whose cosine is within this of 1 have the same direction."""


def learning_rates(cosines: Tensor, confidence: float) -> Tensor:
    """Return the clients' weights (n,) in [0, 1]; all zero if all histories point the same way.

    Parameters
    ----------
    cosines : Tensor
        (n, n) cosines between the clients' histories.
    confidence : float
        The paper's kappa: the steepness of the logit.
    """
    similar = cosines.clone().fill_diagonal_(0)
    highest = similar.max(dim=1).values
    # a client that only resembles one who resembles others more is pardoned
    ratio = torch.where(
        highest[None, :] > highest[:, None], highest[:, None] / highest[None, :], 1.0
    )
    rates = (1 - (similar * ratio).max(dim=1).values).clamp(0, 1)
    rates = torch.where(rates > SAME, rates, 0.0)
    if not rates.any():
        return rates
    rates = rates / rates.max()
    return (confidence * (torch.logit(rates) + 0.5)).clamp(0, 1)


@dataclass(frozen=True)
class FoolsGold(Rule):
    """Mean of updates that counts clients less the more alike their histories are.

    A client's history is the sum of all its updates. By the largest cosine v_i of client i's to
    another's, each cosine to a client with a larger v_j is multiplied by v_i / v_j; a client's
    weight is the logit of one minus the largest that is left, over the largest such weight. Those
    of weight zero are filtered. The weights are divided by their sum, where the paper adds up.

    Made against sybils that share a goal: honest data must differ more. It bounds no lengths, so
    it tolerates no faulty client that sends a long update; any n. Histories are kept as sketches of
    1024 numbers for each client (``client_sketches``), exact for shorter updates. O(n d) for the
    sketches, O(n^2) for the weights, one weighted sum.

    Parameters
    ----------
    confidence : float
        Steepness kappa of the logit, > 0, by default 1.
    """

    scored = True

    confidence: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < float("inf"):
            raise ConfigError(f"FoolsGold needs a finite confidence > 0, found {self.confidence}")

    @property
    def needs(self) -> frozenset[Need]:
        """Clients that keep their rows, as it remembers them."""
        return frozenset({"history"})

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return 0: a single faulty client with a long update can move the mean anywhere."""
        return 0

    def filters(self, n: int) -> bool:
        """Return True for three or more updates: of two, both are equally alike."""
        return n > 2

    def added_rows(self, cohort: Cohort, state: State, size: int) -> Sequence[Tensor]:
        """Return the row of the columns' places in a sketch."""
        return (places_row(size, cohort.seed),)

    def score(self, tile: Tensor) -> Tensor:
        """Return the sketches of a tile's updates."""
        return sketch_tile(tile)

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the clients' weights by their histories, this round's updates included."""
        assert measured.score is not None
        sketches, size = sketches_of(measured.score)
        known: dict[str, Any] = dict(remembered(state, size).get("history", {}))
        names = [str(client) for client in cohort.ids]
        history = torch.stack(
            [known.get(name, 0) + row for name, row in zip(names, sketches, strict=True)]
        )
        scaled = history / history.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
        lengths = scaled.norm(dim=1, keepdim=True)
        directions = torch.where(lengths > 0, scaled / lengths, 0.0)
        rates = learning_rates((directions @ directions.T).clamp(-1, 1), self.confidence)
        weights, filtered = rates, rates == 0
        if bool(filtered.all()):
            weights, filtered = torch.ones_like(rates), torch.zeros_like(filtered)
        mixing = torch.zeros(1, cohort.n + 1, dtype=torch.float64)
        mixing[0, :-1] = weights / weights.sum()
        return Decision(
            mixing=mixing,
            filtered=filtered,
            diagnostics={"foolsgold": dict(zip(names, weights.tolist(), strict=True))},
            state={
                "size": size,
                "history": known | dict(zip(names, history.unbind(), strict=True)),
            },
        )
