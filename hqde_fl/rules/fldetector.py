"""FLDetector: clients whose updates do not follow their own past (Zhang et al., 2022, KDD).

arXiv:2207.09209. What a client sends should change from round to round as the curvature of the loss
says: x_i' = x_i + H (w' - w), with the Hessian's product by L-BFGS from the global model's last
steps. A client's suspicion is how far it is from that, averaged over a window of rounds.
"""

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
from hqde_fl.rules.two_clusters import are_two_clusters, upper_cluster


def hessian_product(steps: Tensor, changes: Tensor, vector: Tensor) -> Tensor:
    """Return the product of a vector (k,) with the L-BFGS approximation of a Hessian.

    By the compact form of Byrd, Nocedal and Schnabel (1994). Zero if the last step was zero, or the
    product is not finite.

    Parameters
    ----------
    steps : Tensor
        (m, k) differences of the weights, the oldest first.
    changes : Tensor
        (m, k) differences of the gradients.
    vector : Tensor
        (k,) the vector to multiply.
    """
    length = float(torch.cat([steps, vector[None]]).abs().max())
    unit = float(changes.abs().max())
    if length == 0 or unit == 0:
        return torch.zeros_like(vector)
    steps, changes, vector = steps / length, changes / unit, vector / length  # squares stay finite
    size = steps[-1] @ steps[-1]
    if not size > 0:
        return torch.zeros_like(vector)
    sigma = (changes[-1] @ steps[-1]) / size
    products = steps @ changes.T
    lower = products.tril(-1)
    matrix = torch.cat(
        [
            torch.cat([-products.diagonal().diag(), lower.T], dim=1),
            torch.cat([lower, sigma * (steps @ steps.T)], dim=1),
        ]
    )
    right = torch.cat([changes @ vector, sigma * (steps @ vector)])
    if not matrix.isfinite().all():
        return torch.zeros_like(vector)
    solution = torch.linalg.pinv(matrix) @ right
    m = len(steps)
    product: Tensor = sigma * vector - solution[:m] @ changes - sigma * (solution[m:] @ steps)
    return (unit * product).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class FLDetector(Rule):
    """Mean of the updates without those of clients whose updates cannot be predicted from before.

    The distance of each update from its prediction, over the sum of the clients' distances, is
    averaged over ``window`` rounds. If these suspicions form two clusters rather than one, by the
    gap statistic, the clients of the higher one are filtered in this round; the paper starts anew
    without them. Before two rounds it is the mean, and it bounds no lengths, so it tolerates no
    faulty client in general: it finds those that are inconsistent over rounds. Any n. Updates of
    the last round are kept as sketches of 1024 numbers for each client (``client_sketches``), exact
    for shorter updates. O(n d) for the sketches, one weighted sum.

    Parameters
    ----------
    window : int
        Rounds that are averaged, and steps in the L-BFGS memory, >= 1, by default 10.
    """

    scored = True

    window: int = 10

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"FLDetector needs window >= 1, found {self.window}")

    @property
    def needs(self) -> frozenset[Need]:
        """Clients that keep their rows, as it remembers them."""
        return frozenset({"history"})

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return 0: a faulty client that is consistent can move the mean anywhere."""
        return 0

    def filters(self, n: int) -> bool:
        """Return True for three or more updates: two cannot form two clusters."""
        return n > 2

    def added_rows(self, cohort: Cohort, state: State, size: int) -> Sequence[Tensor]:
        """Return the model's weights, zero if unknown, and the columns' places in a sketch."""
        weights = cohort.context.weights
        own = torch.zeros(size) if weights is None else weights
        return own, places_row(size, cohort.seed)

    def score(self, tile: Tensor) -> Tensor:
        """Return the sketches of a tile's updates and of the model's weights."""
        return sketch_tile(tile)

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return equal weights for the clients that are not suspected."""
        assert measured.score is not None
        sketches, size = sketches_of(measured.score)
        updates, weights = sketches[:-1], sketches[-1]
        past: dict[str, Any] = dict(remembered(state, size))
        steps, changes = list(past.get("steps", ())), list(past.get("changes", ()))
        if past:
            known = cohort.context.weights is not None
            steps.append(weights - past["weights"] if known else past["result"])
        names = [str(client) for client in cohort.ids]
        scores: dict[str, list[float]] = dict(past.get("scores", {}))
        before: dict[str, Tensor] = past.get("updates", {})
        if changes:
            m = len(changes)
            step = hessian_product(torch.stack(steps[-m - 1 : -1]), torch.stack(changes), steps[-1])
            present = [i for i, name in enumerate(names) if name in before]
            apart = torch.tensor(
                [float((updates[i] - before[names[i]] - step).norm()) for i in present],
                dtype=torch.float64,
            )
            total = float(apart.sum())
            for i, distance in zip(present, apart.tolist(), strict=True):
                relative = distance / total if total > 0 else 0.0
                scores[names[i]] = [*scores.get(names[i], ()), relative][-self.window :]
        suspicion = torch.tensor(
            [sum(s) / len(s) if (s := scores.get(name, ())) else torch.nan for name in names],
            dtype=torch.float64,
        )
        filtered = self._suspected(suspicion, cohort)
        mixing = torch.zeros(1, cohort.n + 2, dtype=torch.float64)
        mixing[0, : cohort.n] = (~filtered).double() / int((~filtered).sum())
        result = mixing[0, : cohort.n] @ updates
        if past:
            changes.append(result - past["result"])
        return Decision(
            mixing=mixing,
            filtered=filtered,
            diagnostics={
                "suspicion": {
                    name: s for name, s in zip(names, suspicion.tolist(), strict=True) if s == s
                }
            },
            state={
                "size": size,
                "weights": weights,
                "result": result,
                "steps": steps[-self.window :],
                "changes": changes[-self.window :],
                "updates": dict(zip(names, updates.unbind(), strict=True)),
                "scores": scores,
            },
        )

    def _suspected(self, suspicion: Tensor, cohort: Cohort) -> Tensor:
        """Return the clients in the higher of two clusters of suspicion, (n,) bool."""
        known = suspicion.isfinite()
        filtered = torch.zeros(cohort.n, dtype=torch.bool)
        values = suspicion[known]
        if len(values) > 2 and are_two_clusters(values, cohort.seed, cohort.round):
            filtered[known] = upper_cluster(values)
        return filtered
