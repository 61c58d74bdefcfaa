"""Memory of the directions in which each client has pushed, over rounds.

One round's directions are noisy: where data differ, an honest update may point away from all
others. Sums over rounds tell more, in two ways.

* **Opposition.** The sum of a client's updates is compared with the sums of the others that trust
  each other (``trusted.py``). Where honest clients' sums agree, one that does not is opposed. Late
  in training updates are mostly noise, and sums stop to agree: then the verdicts of the rounds that
  could tell stand.
* **Patience.** An honest client's residual, its update less the mean, follows the model: it is most
  like that of the round before, and less and less like older ones. A client that pushes the same
  way in every round, hidden in noise of its own, is as like its oldest residuals as its last.

How alike the clients' data are is measured by the same sums: the median over clients of the cosine
between a client's sum and the trusted sum of the others. Where it is low, opposition says nothing.

A client is remembered by three vectors of ``MEMORY_SIZE`` numbers, made of a sample of the columns
that is drawn by the run's seed, and by a few counts of rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import State
from hqde_fl.rules.trusted import saturated_agreement, trust
from hqde_fl.seeding import Seeds
from hqde_fl.updates import Columns, Updates
from hqde_fl.updates.sketch import sketch

MEMORY_SIZE = 1024
"""Numbers in a remembered vector: a cosine is off by about 1 / 32."""

SAMPLED_SPANS, SPAN = 64, 128
"""A larger update is remembered by so many spans of so many columns."""

MIN_CLIENTS = 4
"""With fewer clients nothing is said of single ones: the one that differs may be honest."""

MIN_ALIKE = 0.25
"""Agreement of the clients' sums below which opposition is not told from unequal data."""

STANDING, MIN_TOLD = 0.8, 5
"""A client that was opposed in more than this part of the rounds that could tell, at least so many,
stays so in the rounds that cannot."""

OPPOSED_BELOW = 0.2
"""A client's agreement, as a fraction of the typical one, below which it is opposed."""

ESTABLISHED = 3
"""Rounds after which a client is judged like the others; a newcomer only if clearly opposed."""

FORGETTING = 0.95
"""Weight of the past in a client's sum, once a round."""

FADING = 0.9
"""Weight of the past in a client's mean likeness to its residuals, once a round."""

MIN_COMPARISONS = 4
"""Comparisons with older residuals before a client's patience is judged."""

MIN_DECAY = 0.04
"""Typical loss of likeness to older residuals below which patience is not judged."""

PATIENT_BELOW = 0.3
"""A client's loss of likeness, as a fraction of the typical one, below which it is patient."""

PATIENT_DEVIATIONS = 2.0
"""Robust deviations by which a patient client's loss must also be below the typical one."""

MAD_TO_DEVIATION = 1.4826
"""MAD times this estimates the standard deviation of normally distributed numbers."""

MIN_PERSISTENCE = 0.12
"""Likeness to older residuals below which a client has no direction of its own."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The verdict of the remembered directions on a round's clients.

    Parameters
    ----------
    alike : float
        How alike the clients' data are, in [-1, 1]; 0 if there are too few clients.
    agreement : Tensor
        (n,) cosine between each client's sum and the trusted sum of the others.
    opposed, patient : Tensor
        (n,) bool, the clients that are found to be opposed or patient.
    state : State
        The memory for the next round.
    """

    alike: float
    agreement: Tensor
    opposed: Tensor
    patient: Tensor
    state: State


def sample(columns: Columns, seed: int) -> Tensor:
    """Return (n, k) float64 short vectors for n updates; inner products are kept in the mean.

    k is d, at most ``MEMORY_SIZE``. The sample depends on the seed and d alone.

    Parameters
    ----------
    columns : Columns
        (n, d) finite updates.
    seed : int
        The run's seed, which clients do not know.
    """
    d = columns.shape[1]
    seeds = Seeds(seed)
    if d <= SAMPLED_SPANS * SPAN:
        spans = [(0, d)]
    else:
        starts = seeds.numpy("direction memory", d).integers(0, d - SPAN + 1, SAMPLED_SPANS)
        spans = [(int(start), int(start) + SPAN) for start in sorted(starts)]
    read = torch.cat([columns.tile(*span).cpu() for span in spans], dim=1)
    if d <= MEMORY_SIZE:
        return read.to(torch.float64)
    return sketch(Updates(read), seeds, MEMORY_SIZE).to(torch.float64)


def judge(sampled: Tensor, kept: Tensor, cohort: Cohort, state: State) -> Directions:
    """Return what a round's updates and those before say of the clients, and the new memory.

    Parameters
    ----------
    sampled : Tensor
        (n, k) ``sample`` of the updates.
    kept : Tensor
        (n,) weights of the updates in the mean that residuals are taken from.
    cohort : Cohort
        The clients.
    state : State
        The memory as returned last round; empty at first. One of other sizes is dropped.
    """
    n, k = sampled.shape
    past: dict[str, Mapping[str, Any]] = (
        dict(state.get("clients", {})) if state.get("size") == k else {}
    )
    names = [str(client) for client in cohort.ids]
    known = [past.get(name, {}) for name in names]
    zero = torch.zeros(k, dtype=torch.float64)

    def remembered(key: str) -> Tensor:
        return torch.stack([entry.get(key, zero).to(torch.float64) for entry in known])

    def number(key: str) -> Tensor:
        return torch.tensor([float(entry.get(key, 0.0)) for entry in known], dtype=torch.float64)

    lengths = _lengths(sampled)
    typical = float(lengths.median())
    scaled = _units(sampled) * (lengths / typical if typical > 0 else lengths).clamp(max=1)[:, None]
    history = FORGETTING * remembered("sum") + scaled
    rounds = number("rounds") + 1
    agreement = _agreement(history)
    alike = float(agreement.median()) if n >= MIN_CLIENTS else 0.0
    newcomer = rounds < ESTABLISHED
    bound = torch.where(newcomer, -OPPOSED_BELOW, OPPOSED_BELOW) * alike
    told = number("told") + (alike >= MIN_ALIKE)
    against = number("against") + ((agreement < bound) & (alike >= MIN_ALIKE))
    stands = (told >= MIN_TOLD) & (against > STANDING * told)
    opposed = agreement < bound if alike >= MIN_ALIKE else stands

    centre = kept / kept.sum() @ scaled if kept.sum() > 0 else zero
    residuals = _units(scaled - centre)
    last, older = remembered("last"), remembered("older")
    near = (residuals * last).sum(dim=1)
    far = (residuals * _units(older)).sum(dim=1)
    # the mean of unit residuals is shorter the less they agree: so a cosine with each, on average
    far = far * _lengths(older) / (rounds - 2).clamp(min=1)
    compared = rounds > 2
    fade = torch.where(number("compared") > 0, FADING, 0.0)
    weight = fade * number("compared") + compared.double()
    whole = weight.clamp(min=1)
    near_mean = (fade * number("compared") * number("near") + compared * near) / whole
    far_mean = (fade * number("compared") * number("far") + compared * far) / whole
    decay = near_mean - far_mean
    judged = rounds >= MIN_COMPARISONS + 2
    usual, deviation = 0.0, 0.0
    if int(judged.sum()) >= MIN_CLIENTS:
        usual = float(decay[judged].median())
        deviation = MAD_TO_DEVIATION * float((decay[judged] - usual).abs().median())
    bound_of_decay = min(PATIENT_BELOW * usual, usual - PATIENT_DEVIATIONS * deviation)
    patient = judged & (decay < bound_of_decay) & (far_mean > MIN_PERSISTENCE)
    patient &= usual >= MIN_DECAY
    entries = {
        name: {
            "sum": history[i].to(torch.float32),
            "last": residuals[i].to(torch.float32),
            "older": (older[i] + last[i]).to(torch.float32),
            "rounds": int(rounds[i]),
            "told": int(told[i]),
            "against": int(against[i]),
            "compared": float(weight[i]),
            "near": float(near_mean[i]),
            "far": float(far_mean[i]),
        }
        for i, name in enumerate(names)
    }
    return Directions(
        alike, agreement, opposed, patient, {"size": k, "clients": {**past, **entries}}
    )


def _agreement(history: Tensor) -> Tensor:
    """Return the (n,) cosine between each row and the trusted sum of the other rows."""
    units = _units(history)
    cosines = (units @ units.T).clamp(-1, 1)
    trusted = trust(saturated_agreement(cosines, 0.5))
    others = trusted[None, :].repeat(len(trusted), 1).fill_diagonal_(0)
    squared = ((others @ cosines) * others).sum(dim=1).clamp(min=0)
    inner = (others * cosines).sum(dim=1)
    return torch.where(squared > 0, inner / squared.sqrt(), 0.0).nan_to_num(0.0).clamp(-1, 1)


def _lengths(rows: Tensor) -> Tensor:
    """Return the (n,) lengths of rows, however large their numbers."""
    largest = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
    lengths: Tensor = (rows / largest).norm(dim=1) * largest[:, 0]
    return lengths


def _units(rows: Tensor) -> Tensor:
    """Return rows scaled to length 1; zero rows stay."""
    largest = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
    scaled = rows / largest
    units: Tensor = scaled / scaled.norm(dim=1, keepdim=True).clamp(min=1e-300)
    return units
