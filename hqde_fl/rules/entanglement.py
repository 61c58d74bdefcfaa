"""Entanglement: a client counts for as much as its update is coupled to the others'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.bounded_weights import (
    bound_lengths,
    check_longest,
    effective_clients,
    normalised_weights,
)
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.density_matrix import cosines
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.seeding import Seeds

TIE_RATIO = 1e-9
"""Eigenvalues that differ by less, relative to the largest, count as equal."""


@dataclass(frozen=True)
class Entanglement(Rule):
    """Mean weighted by how strongly each update is coupled to the others; opponents get nothing.

    The coupling of two clients is the cosine between their updates, cut off at the median absolute
    cosine of all pairs: colluding clients that send one and the same update gain no more by it than
    two that merely agree. A client is not coupled to itself. Weights are the entries of the top
    eigenvector of the coupling, or its rows' means; what is negative is clipped at zero, so an
    update that opposes the others counts for nothing and is reported as filtered. The eigenvector's
    sign is the one with which more clients agree. Its classical twins are principal component
    analysis and eigenvector centrality.

    Tolerates f < n / 2 in that the result stays bounded; with ``longest=0`` it tolerates none.
    O(n^2 d) for the Gram matrix, O(n^3) for the eigenvector, one weighted sum.

    Parameters
    ----------
    coupling : "measured" or "random"
        ``"random"`` is HQDE's original: E is a symmetric random matrix times ``strength`` with
        ones on its diagonal, S the cosine matrix, the weights softmax(diag(S E)). It depends on the
        seed and on the clients taking part, and serves comparison only: identical clients get
        unequal weights, and an opponent keeps a weight.
    by : "eigenvector" or "row-mean"
        The map from measured couplings to weights. An eigenvector sees whole groups: clients that
        agree with each other but not with the majority get next to nothing. The mean of a row's
        positive couplings is the plainer choice, and leaves such a group its weight.
    strength : float
        Factor of the random coupling, >= 0.
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
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2; 0 without a bound on the lengths."""
        return (n - 1) // 2 if self.longest > 0 else 0

    def filters(self, n: int) -> bool:
        """Return True unless the coupling is random: updates without weight are filtered."""
        return self.coupling == "measured"

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the clients' weights, from their couplings."""
        assert measured.geometry is not None
        similar = cosines(measured.geometry)
        if self.coupling == "random":
            weights = original_weights(similar, random_coupling(cohort, self.strength))
        elif self.by == "eigenvector":
            weights = normalised_weights(leading_eigenvector(cap_cosines(similar)))
        else:
            weights = normalised_weights(cap_cosines(similar).clamp(min=0).sum(dim=1))
        mixing = bound_lengths(weights, measured.geometry, self.longest)
        return Decision(
            mixing=mixing[None, :],
            filtered=weights == 0,
            diagnostics={"entanglement-effective-clients": effective_clients(weights)},
        )


def cap_cosines(similar: Tensor) -> Tensor:
    """Return cosines (n, n) cut off at their median size, zero on the diagonal.

    The median is over pairs of updates that are not zero; without such a pair all entries are zero.
    """
    present = (similar.diagonal() > 0).nonzero().flatten()  # the other updates are zero
    if len(present) < 2:
        return torch.zeros_like(similar)
    one, other = present[torch.triu_indices(len(present), len(present), offset=1)]
    typical = float(similar[one, other].abs().median())
    return similar.clamp(-typical, typical).fill_diagonal_(0)


def leading_eigenvector(coupling: Tensor) -> Tensor:
    """Return the top eigenvector (n,) of a symmetric matrix, with the majority's sign, >= 0.

    Entries of the other sign become zero. If several eigenvectors have the largest eigenvalue, the
    vector of ones is projected on them: that does not depend on the order of the clients. A
    multiple of the identity, as without any coupling, gives zeros.
    """
    n = coupling.shape[0]
    values, vectors = torch.linalg.eigh(coupling)
    top = vectors[:, values >= values[-1] - TIE_RATIO * coupling.abs().max()]
    if top.shape[1] == n:  # no client is coupled to another
        return torch.zeros(n, dtype=torch.float64)
    vector = top[:, 0] if top.shape[1] == 1 else top @ top.sum(dim=0)
    vector = torch.where(vector.abs() > TIE_RATIO, vector, 0)
    ahead = int(vector.sign().sum())
    if ahead == 0:  # as many of either sign: the larger sum decides
        lead = float(vector.sum())
        if abs(lead) <= TIE_RATIO:
            return vector.abs()
        return (vector if lead > 0 else -vector).clamp(min=0)
    return (vector if ahead > 0 else -vector).clamp(min=0)


def random_coupling(cohort: Cohort, strength: float) -> Tensor:
    """Return HQDE's E (n, n): symmetric normals times strength, with ones on the diagonal."""
    n = cohort.n
    drawn = torch.from_numpy(Seeds(cohort.seed).numpy("entanglement", n).standard_normal((n, n)))
    ranks = {client: k for k, client in enumerate(sorted(cohort.ids))}
    rank = [ranks[client] for client in cohort.ids]
    coupling = (drawn + drawn.T)[rank][:, rank] / 2 * strength
    return coupling.fill_diagonal_(1)


def original_weights(similar: Tensor, coupling: Tensor) -> Tensor:
    """Return HQDE's weights (n,), softmax(diag(S E)), of cosines S and a coupling E."""
    return (similar * coupling.T).sum(dim=1).softmax(0)
