"""The updates of a round as a quantum state: the density matrix, and numbers that describe it.

Each client's update is a state vector. Their Gram matrix over its trace is symmetric, positive and
of trace one: a density matrix, rho = G / tr G. Everything here is n x n, whatever the size of the
model, and ordinary linear algebra: rho is the n x n form of the updates' (uncentred) covariance,
its spectrum that of a principal component analysis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.results import State

States = Literal["unit", "raw", "centred"]
"""Directions of the updates, the updates themselves, or the updates minus their mean."""


def cosines(geometry: Geometry) -> Tensor:
    """Return (n, n) cosines between the updates; zero for an update that is zero."""
    norms = geometry.norms()
    inverse = torch.where(norms > 0, 1 / norms, 0)
    products = (geometry.products() * inverse[:, None] * inverse[None, :]).clamp(-1, 1)
    diagonal = (norms > 0).to(torch.float64)
    return products.fill_diagonal_(0) + diagonal.diag()


def density(geometry: Geometry, states: States = "unit") -> Tensor:
    """Return the (n, n) density matrix of the updates.

    Parameters
    ----------
    geometry : Geometry
        The updates' inner products.
    states : "unit", "raw" or "centred"
        ``"unit"``: rho = C / n with the cosines C, the even mixture of n pure states. Every client
        counts the same, so no client's length can pass for coherence. ``"raw"``: the updates
        themselves, G / tr G. ``"centred"``: the updates minus their mean. If all states are zero
        (all updates zero, or equal when centred) the result is the pure state with 1 / n in every
        entry.
    """
    if states not in get_args(States):
        raise ConfigError(f"density needs states among {', '.join(get_args(States))}: {states!r}")
    n = geometry.n
    if states == "unit":
        gram = cosines(geometry)
    elif states == "raw":
        gram = geometry.products()
    else:
        gram = geometry.about(torch.full((n,), 1 / n, dtype=torch.float64))
    largest = float(gram.diagonal().max())
    if largest <= 0:
        return torch.full((n, n), 1 / n, dtype=torch.float64)
    gram = gram / largest
    return gram / float(gram.trace())


def purity(rho: Tensor) -> float:
    """Return tr(rho^2): 1 if all states are one direction, 1 / n if all n are orthogonal."""
    return float((rho * rho).sum())


def spectrum(rho: Tensor) -> Tensor:
    """Return the (n,) eigenvalues of a density matrix, >= 0, the largest first, with sum one."""
    values: Tensor = torch.linalg.eigvalsh(rho).flip(0).clamp(min=0)
    return values / values.sum()


def entropy(rho: Tensor, normalised: bool = True, rank: int | None = None) -> float:
    """Return the von Neumann entropy -tr(rho log rho) of a density matrix, normalised by default.

    Parameters
    ----------
    rho : Tensor
        (n, n) density matrix.
    normalised : bool
        Divide by the logarithm of the largest rank possible: in [0, 1], 0 for a pure state and 1
        for a fully mixed one. Otherwise in nats.
    rank : int, optional
        The largest rank possible; n if not given. Centred states have n - 1, and d-dimensional ones
        at most d.
    """
    values = spectrum(rho)
    nats = float(torch.special.entr(values).sum())
    if not normalised:
        return nats
    largest = math.log(max(1, rho.shape[0] if rank is None else rank))
    return min(1.0, max(0.0, nats / largest)) if largest > 0 else 0.0


def fidelity(rho: Tensor, sigma: Tensor) -> float:
    """Return Uhlmann's fidelity of two density matrices, in [0, 1].

    (tr sqrt(sqrt(rho) sigma sqrt(rho)))^2: 1 if and only if they are equal; for pure states the
    squared cosine between them.
    """
    if rho.shape != sigma.shape:
        raise ValueError(f"fidelity needs matrices of one shape, found {rho.shape}, {sigma.shape}")
    overlap = torch.linalg.svdvals(_root(rho) @ _root(sigma)).sum()
    return min(1.0, float(overlap) ** 2)


def correlation(rho: Tensor) -> float:
    """Return the mean cosine between two different clients' states; 1 for a single client."""
    n = rho.shape[0]
    if n < 2:
        return 1.0
    norms = rho.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0)
    similar = (rho * inverse[:, None] * inverse[None, :]).clamp(-1, 1)
    return float((similar.sum() - similar.trace()) / (n * (n - 1)))


def diagnostics(
    geometry: Geometry, ids: Sequence[int], previous: State | None = None
) -> tuple[dict[str, float], State]:
    """Return the numbers for a round's records that describe its density matrix of unit states.

    Parameters
    ----------
    geometry : Geometry
        Inner products of the round's updates.
    ids : Sequence[int]
        The clients, in row order.
    previous : State, optional
        The state that the last round's call returned.

    Returns
    -------
    dict[str, float]
        ``density-purity``, ``density-entropy`` (normalised), ``density-leading`` (the largest
        eigenvalue), ``density-correlation``, and ``density-fidelity`` to the previous round,
        over the clients that took part in both, if there are any.
    State
        The clients and the density matrix, for the next round's call.
    """
    rho = density(geometry)
    numbers = {
        "density-purity": purity(rho),
        "density-entropy": entropy(rho),
        "density-leading": float(spectrum(rho)[0]),
        "density-correlation": correlation(rho),
    }
    if previous:
        before = {client: row for row, client in enumerate(previous["ids"])}
        common = [(row, before[client]) for row, client in enumerate(ids) if client in before]
        if common:
            now, then = ([pair[side] for pair in common] for side in (0, 1))
            old: Tensor = previous["density"]
            numbers["density-fidelity"] = fidelity(_restricted(rho, now), _restricted(old, then))
    return numbers, {"ids": list(ids), "density": rho}


def _root(rho: Tensor) -> Tensor:
    """Return the positive square root of a density matrix."""
    values, vectors = torch.linalg.eigh(rho)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _restricted(rho: Tensor, rows: list[int]) -> Tensor:
    """Return the density matrix of the clients ``rows`` alone, with trace one.

    If their states are all zero, every entry is one over their number.
    """
    part = rho[rows][:, rows]
    trace = float(part.trace())
    if trace > 0:
        return part / trace
    return torch.full_like(part, 1 / len(rows))
