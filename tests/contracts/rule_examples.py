"""One example for each name in ``RULES``, from which the contract suite builds rules with f."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.rules import (
    ARC,
    CAF,
    FLAME,
    LASA,
    MDA,
    NNM,
    SMEA,
    Adaptive,
    Aggregator,
    Bucketing,
    Bulyan,
    ByzantineFilter,
    CenteredClipping,
    Chain,
    Clipping,
    DnC,
    Entanglement,
    FedRDF,
    FLDetector,
    FLTrust,
    FoolsGold,
    GeometricMedian,
    Krum,
    Meamed,
    Mean,
    Median,
    MoNNA,
    MultiKrum,
    NormalisedMean,
    Robust,
    RoundContext,
    SignGuard,
    Superposition,
    Tree,
    TrimmedMean,
    Voting,
)


@dataclass(frozen=True)
class Example:
    """A constructor of a rule, and the laws that the rule claims.

    Parameters
    ----------
    make : Callable[[int], Aggregator]
        From f to an instance that ends a chain.
    translates : bool
        Moving all updates moves the result with them.
    scales : bool
        Multiplying all updates multiplies the result.
    """

    make: Callable[[int], Aggregator]
    translates: bool = True
    scales: bool = True


EXAMPLES: dict[str, Example] = {
    "adaptive": Example(lambda f: Adaptive(), translates=False),
    "arc": Example(lambda f: Chain(ARC(f), Median()), translates=False),
    "bucketing": Example(lambda f: Chain(Bucketing(2), GeometricMedian())),
    "bulyan": Example(Bulyan),
    "byzantine-filter": Example(lambda f: ByzantineFilter(), translates=False),
    "caf": Example(CAF),
    "centered-clipping": Example(lambda f: CenteredClipping(), translates=False),
    "chain": Example(lambda f: Chain(NNM(f), GeometricMedian())),
    "clipping": Example(lambda f: Chain(Clipping(3.0), Median()), translates=False, scales=False),
    "dnc": Example(DnC),
    "entanglement": Example(lambda f: Entanglement(), translates=False),
    "fedrdf": Example(lambda f: FedRDF()),
    "flame": Example(lambda f: FLAME(noise=0.0), translates=False),
    "fldetector": Example(lambda f: FLDetector()),
    "fltrust": Example(lambda f: FLTrust(), translates=False),
    "foolsgold": Example(lambda f: FoolsGold(), translates=False),
    "geometric-median": Example(lambda f: GeometricMedian()),
    "krum": Example(Krum),
    "lasa": Example(lambda f: LASA(), translates=False, scales=False),  # but by powers of two
    "mda": Example(lambda f: MDA(min(f, 5))),
    "meamed": Example(Meamed),
    "mean": Example(lambda f: Mean()),
    "median": Example(lambda f: Median()),
    "monna": Example(lambda f: MoNNA(f, trusted=4)),
    "multi-krum": Example(MultiKrum),
    "nnm": Example(lambda f: Chain(NNM(f), TrimmedMean(f))),
    "normalised-mean": Example(lambda f: NormalisedMean(), translates=False),
    "robust": Example(lambda f: Robust(), translates=False),
    "sign-guard": Example(lambda f: SignGuard(), translates=False),
    "smea": Example(lambda f: SMEA(f if f <= 5 else 0)),
    "superposition": Example(lambda f: Superposition(), translates=False),
    "tree": Example(lambda f: Tree(Median(), GeometricMedian(), fanout=3)),
    "trimmed-mean": Example(TrimmedMean),
    "voting": Example(lambda f: Voting(), translates=False),
}

MORE: dict[str, Example] = {
    "adaptive, voting on coordinates": Example(
        lambda f: Adaptive(high=1.0, low=1.0, voting=Voting()), translates=False
    ),
    "nnm and adaptive": Example(lambda f: Chain(NNM(f), Adaptive()), translates=False),
    "byzantine-filter, all detectors": Example(
        lambda f: ByzantineFilter(detectors=("mad", "cosine", "euclidean")), translates=False
    ),
    "byzantine-filter, mad": Example(lambda f: ByzantineFilter(detectors=("mad",))),
    "robust, one round": Example(lambda f: Robust(directions=False), translates=False),
    "byzantine-filter, twins": Example(lambda f: ByzantineFilter(detectors=("mad", "twins"))),
    "centered-clipping, absolute": Example(
        lambda f: CenteredClipping(tau=2.0, relative=False), translates=False, scales=False
    ),
    "entanglement by rows": Example(lambda f: Entanglement(by="row-mean"), translates=False),
    "entanglement, unbounded": Example(lambda f: Entanglement(longest=0), translates=False),
    "entanglement, random": Example(lambda f: Entanglement(coupling="random"), translates=False),
    "nnm and entanglement": Example(lambda f: Chain(NNM(f), Entanglement()), translates=False),
    "nnm and superposition": Example(lambda f: Chain(NNM(f), Superposition()), translates=False),
    "nnm and voting": Example(lambda f: Chain(NNM(f), Voting()), translates=False),
    "bucketing and fltrust": Example(lambda f: Chain(Bucketing(2), FLTrust()), translates=False),
    "lasa of all magnitudes": Example(
        lambda f: LASA(sign_bound=2.0, sparsity=0.0), translates=False
    ),
    "nnm and lasa": Example(lambda f: Chain(NNM(f), LASA()), translates=False, scales=False),
    "nnm and foolsgold": Example(lambda f: Chain(NNM(f), FoolsGold()), translates=False),
    "nnm and flame": Example(lambda f: Chain(NNM(f), FLAME(noise=0.0)), translates=False),
    "nnm and smea": Example(lambda f: Chain(NNM(f), SMEA(f if f <= 5 else 0))),
    "tree of fltrust": Example(lambda f: Tree(FLTrust(), Median(), fanout=3), translates=False),
    "nnm and krum": Example(lambda f: Chain(NNM(f), Krum(f))),
    "nnm and median": Example(lambda f: Chain(NNM(f), Median())),
    "arc and bulyan": Example(lambda f: Chain(ARC(f), Bulyan(f)), translates=False),
    "arc, nnm and centered-clipping": Example(
        lambda f: Chain(ARC(f), NNM(f), CenteredClipping()), translates=False
    ),
    "bucketing and centered-clipping": Example(
        lambda f: Chain(Bucketing(2), CenteredClipping()), translates=False
    ),
    "superposition, unbounded": Example(lambda f: Superposition(longest=0), translates=False),
    "tree of means": Example(lambda f: Tree(fanout=3)),
    "voting on updates": Example(lambda f: Voting(votes="updates"), translates=False),
}
"""Instances with other parameters, and compositions, under the same laws."""

ALL = EXAMPLES | MORE


def context_of(rule: Aggregator, updates: Tensor) -> RoundContext:
    """Return what a rule needs of the server: the median of the updates, layers of three sizes."""
    d = updates.shape[1]
    layers = (d // 2, d // 3, d - d // 2 - d // 3)
    reference = updates.to(torch.float64).median(dim=0).values
    return RoundContext(reference, layers) if rule.needs else RoundContext()
