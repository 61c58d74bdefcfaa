"""Entanglement: a client counts for as much as its update is coupled to the others'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.bounded_weights import bounded, check_longest, effective, shared
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.density_matrix import cosines
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.seeding import Seeds

SAME = 1e-9
"""Eigenvalues that differ by less, relative to the largest, are taken for one."""


@dataclass(frozen=True)
class Entanglement(Rule):
    """Mean weighted by how strongly each update is coupled to the others; opponents get nothing.

    The coupling of two clients is the cosine between their updates, cut off at the median absolute
    cosine of all pairs: colluding clients that send one and the same update gain no more by it than
    two that merely agree. A client is not coupled to itself. Weights are the entries of the top
    eigenvector of the coupling, or its rows' means; what is negative is clipped at zero, so an
    update that opposes the others counts for nothing and is reported as rejected. The eigenvector's
    sign is the one with which more clients agree. Its classical twins are principal component
    analysis and eigenvector centrality.

    Tolerates f < n / 2 in that the result stays bounded; with ``longest=0`` it tolerates nobody.
    O(n^2 d) for the Gram matrix, O(n^3) for the eigenvector, one weighted sum.

    Parameters
    ----------
    coupling : "measured" or "random"
        ``"random"`` is HQDE's original: E is a symmetric random matrix times ``strength`` with
        ones on its diagonal, S the cosine matrix, the weights softmax(diag(S E)). It depends on the
        seed and on the clients taking part, and serves comparison only: identical clients get
        unequal weights, and an opponent keeps its own.
    by : "eigenvector" or "row-mean"
        How measured couplings become weights. An eigenvector sees whole groups: clients that agree
        with each other but not with the majority get next to nothing. The mean of a row's positive
        couplings is the plainer choice, and leaves such a group its share.
    strength : float
        Of the random coupling.
    longest : float
        An update counts as no longer than this many median lengths; 0 for no bound.
    """

    gram = True

    coupling: Literal["measured", "random"] = "measured"
    by: Literal["eigenvector", "row-mean"] = "eigenvector"
    strength: float = 0.1
    longest: float = 2.0

    def __post_init__(self) -> None:
        for name, known in (
            ("coupling", ("measured", "random")),
            ("by", ("eigenvector", "row-mean")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"Entanglement needs {name} among {', '.join(known)}: {getattr(self, name)!r}"
                )
        if not self.strength >= 0:
            raise ConfigError(f"Entanglement needs strength >= 0, found {self.strength}")
        check_longest("Entanglement", self.longest)

    def minimum(self, faulty: int = 0) -> int:
        """One update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Less than half; nobody without a bound on the lengths."""
        return (n - 1) // 2 if self.longest > 0 else 0

    def filters(self, n: int) -> bool:
        """Return whether it rejects: updates without weight; the original weighs all."""
        return self.coupling == "measured"

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """The clients' weights from their couplings."""
        assert measured.geometry is not None
        similar = cosines(measured.geometry)
        if self.coupling == "random":
            weights = original_weights(similar, random_coupling(cohort, self.strength))
        elif self.by == "eigenvector":
            weights = shared(leading(capped(similar)))
        else:
            weights = shared(capped(similar).clamp(min=0).sum(dim=1))
        mixing = bounded(weights, measured.geometry, self.longest)
        return Decision(
            mixing=mixing[None, :],
            rejected=weights == 0,
            diagnostics={"entanglement-effective-clients": effective(weights)},
        )


def capped(similar: Tensor) -> Tensor:
    """Cosines (n, n) cut off at their median size over all pairs, and zero on the diagonal."""
    present = (similar.diagonal() > 0).nonzero().flatten()  # the others sent zeros
    if len(present) < 2:
        return torch.zeros_like(similar)
    one, other = present[torch.triu_indices(len(present), len(present), offset=1)]
    typical = float(similar[one, other].abs().median())
    return similar.clamp(-typical, typical).fill_diagonal_(0)


def leading(coupling: Tensor) -> Tensor:
    """(n,) top eigenvector of a symmetric matrix, with the sign of the many, clipped at zero.

    Where several eigenvectors share the top, what they make of the vector of ones is taken: it
    does not depend on the order of the clients.
    """
    n = coupling.shape[0]
    values, vectors = torch.linalg.eigh(coupling)
    top = vectors[:, values >= values[-1] - SAME * coupling.abs().max()]
    if top.shape[1] == n:  # nobody is coupled to anybody
        return torch.zeros(n, dtype=torch.float64)
    vector = top[:, 0] if top.shape[1] == 1 else top @ top.sum(dim=0)
    vector = torch.where(vector.abs() > SAME, vector, 0)
    ahead = int(vector.sign().sum())
    if ahead == 0:  # as many for it as against it: whoever carries more
        lead = float(vector.sum())
        return vector.abs() if abs(lead) <= SAME else (vector if lead > 0 else -vector).clamp(min=0)
    return (vector if ahead > 0 else -vector).clamp(min=0)


def random_coupling(cohort: Cohort, strength: float) -> Tensor:
    """HQDE's E: symmetric standard normals' means times strength, ones on the diagonal."""
    n = cohort.n
    drawn = torch.from_numpy(Seeds(cohort.seed).numpy("entanglement", n).standard_normal((n, n)))
    place = {client: k for k, client in enumerate(sorted(cohort.ids))}
    rank = [place[client] for client in cohort.ids]
    coupling = (drawn + drawn.T)[rank][:, rank] / 2 * strength
    return coupling.fill_diagonal_(1)


def original_weights(similar: Tensor, coupling: Tensor) -> Tensor:
    """HQDE's softmax(diag(S E))."""
    return (similar * coupling.T).sum(dim=1).softmax(0)
