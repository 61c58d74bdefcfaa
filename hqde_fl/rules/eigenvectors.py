"""Eigenvectors of small symmetric matrices."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_DENSE_SIZE = 64
"""Matrices up to this size are diagonalised whole."""

MAX_RESIDUAL = 1e-11
"""Residual, relative to the eigenvalue, at which an iterated eigenvector is as good as exact."""

MAX_STEPS = 400
"""Lanczos steps, at most."""

STEPS_PER_CHECK = 20
"""Lanczos steps between two computations of the residual."""


def top_eigenvector(matrix: Tensor, start: Tensor | None = None) -> tuple[float, Tensor]:
    """Return the largest eigenvalue of a positive semidefinite matrix, and its unit eigenvector.

    For a zero matrix these are 0 and n^-1/2 in every entry. Large matrices go through Lanczos steps
    with full reorthogonalisation until the residual is at most ``MAX_RESIDUAL``; if it never is,
    the matrix is diagonalised whole.

    Parameters
    ----------
    matrix : Tensor
        (n, n) float64.
    start : Tensor, optional
        (n,) initial vector, for instance the eigenvector of a similar matrix.
    """
    n = matrix.shape[0]
    scale = float(matrix.abs().max())
    if scale == 0:
        return 0.0, torch.full((n,), n**-0.5, dtype=torch.float64)
    unit = matrix / scale
    if n > MAX_DENSE_SIZE:
        heaviest = unit[:, int(unit.diagonal().argmax())]
        pair = _lanczos(unit, heaviest if start is None else start + 1e-3 * heaviest)
        if pair is not None:
            return pair[0] * scale, pair[1]
    values, vectors = torch.linalg.eigh(unit)
    return float(values[-1]) * scale, vectors[:, -1]


def _lanczos(matrix: Tensor, start: Tensor) -> tuple[float, Tensor] | None:
    """Return the largest eigenvalue and its unit eigenvector; None if the steps do not converge."""
    n = matrix.shape[0]
    steps = min(n, MAX_STEPS)
    basis = torch.zeros(steps, n, dtype=torch.float64)
    projected = torch.zeros(steps, steps, dtype=torch.float64)
    basis[0] = start / start.norm()
    for k in range(steps):
        image = matrix @ basis[k]
        projected[k, k] = image @ basis[k]
        previous = basis[: k + 1]
        for _ in range(2):  # twice is enough (Parlett)
            image = image - previous.T @ (previous @ image)
        remainder = float(image.norm())
        if k + 1 == steps or remainder < 1e-14 or k % STEPS_PER_CHECK == STEPS_PER_CHECK - 1:
            values, vectors = torch.linalg.eigh(projected[: k + 1, : k + 1])
            if remainder * abs(float(vectors[-1, -1])) <= MAX_RESIDUAL * float(values[-1]):
                vector = previous.T @ vectors[:, -1]
                return float(values[-1]), vector / vector.norm()
            if remainder < 1e-14:
                return None
        if k + 1 < steps:
            projected[k, k + 1] = projected[k + 1, k] = remainder
            basis[k + 1] = image / remainder
    return None
