"""Rules that go together with central differential privacy, and the argument for each.

Noise is in proportion to the sensitivity: how far one client can move what it is added to. Two
kinds of rules have one that is small enough.

* Client sums: n times the result is a sum over the clients of a vector that depends on the client's
  own update alone and is no longer than that. With updates clipped to C, a client more or less
  moves the sum by at most C, and another client in the place of one by at most 2 C.
* Rules with a bound for a fixed number of updates (``Aggregator.sensitivity``): clients without an
  update count as zeros, so that another client in the place of one changes one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from hqde_fl.catalogue import RULES
from hqde_fl.privacy.sampling import Sampling
from hqde_fl.rules import Aggregator, Bucketing, Chain, Clipping, Mean, Tree

CHOOSES = "one update decides which of the others count, so replacing it can replace the result"
JUMPS = "one update can move every coordinate from one client's number to another's, at any n"
LEARNS = "each client's part depends on all other updates, which the rule compares with it"
REMEMBERS = "it remembers results of earlier rounds without their noise"

UNDECLARED = "it does not declare a bound of its sensitivity (Aggregator.sensitivity)"

REASONS = {
    "adaptive": LEARNS,
    "arc": "the norm to which it clips is that of other clients' updates",
    "bulyan": CHOOSES,
    "byzantine-filter": CHOOSES,
    "caf": LEARNS,
    "centered-clipping": REMEMBERS,
    "dnc": CHOOSES,
    "entanglement": LEARNS,
    "fedrdf": JUMPS,
    "flame": "who is in the largest cluster, and the length to clip to, depend on all updates",
    "fldetector": REMEMBERS,
    "fltrust": "one update can change the sum of trust by which all others are divided",
    "foolsgold": REMEMBERS,
    "geometric-median": "its weights are the reciprocal distances of all updates to the result",
    "krum": CHOOSES,
    "lasa": "who counts in a layer, and the length to clip to, depend on all updates",
    "mda": CHOOSES,
    "meamed": JUMPS,
    "median": JUMPS,
    "monna": CHOOSES,
    "multi-krum": CHOOSES,
    "nnm": "an update's neighbours depend on it",
    "normalised-mean": "the length to which it brings updates is the median of all clients'",
    "robust": LEARNS,
    "sign-guard": CHOOSES,
    "smea": CHOOSES,
    "superposition": LEARNS,
    "trimmed-mean": JUMPS,
    "voting": LEARNS,
}
"""Name of a rule -> why no bound of its sensitivity is of use."""

ARGUMENTS = {
    "mean": "equal weights: a sum of clipped updates, by a number that is the same for all data",
    "clipping": "(in a chain) shortens each update by itself: the sum's sensitivity does not grow",
    "bucketing": "(in a chain that ends with a mean, and a fixed number of clients) buckets do not "
    "depend on updates, so one client moves one bucket's mean",
    "chain": "of clippings and a mean; with bucketing for a fixed number of clients only",
    "tree": "of means with equal weights: equal to the mean of all clients",
}
"""Name of a rule -> the argument for its sensitivity."""

_BOUNDS = ("sensitivity", "moved_rows")
_STEPS = ("run", "decide", "combine", "score", "mean_weights", "next_state", "remembered_rows")


@final
@dataclass(frozen=True)
class Composition:
    """A rule as differential privacy sees it.

    Parameters
    ----------
    clipping : float or None
        The norm to which the rule itself clips updates, infinity if it does not, where the rule is
        a client sum; else None.
    refusal : str or None
        Why the rule cannot be used; None if it can.
    """

    clipping: float | None = None
    refusal: str | None = None

    @classmethod
    def of(cls, rule: Aggregator, sampling: Sampling, norm: float = 1.0) -> Composition:
        """Return how a rule goes together with differential privacy.

        Parameters
        ----------
        rule : Aggregator
            The rule.
        sampling : Sampling
            The sampling of the clients.
        norm : float
            The clipping norm.
        """
        if (clipping := own_clipping(rule)) is not None:
            return cls(clipping)
        bound = rule.sensitivity(sampling.size, norm)
        if bound is None or not 0 < bound < math.inf or not _is_declared(rule):
            return cls(refusal=_reason(rule))
        if sampling.poisson:
            return cls(
                refusal="its sensitivity is known for a fixed number of updates only: use "
                "selector 'uniform'"
            )
        return cls()


def own_clipping(rule: Aggregator) -> float | None:
    """Return the norm to which a client sum itself clips updates; infinity if it does not.

    None for a rule that is no client sum.
    """
    if type(rule) is Mean:
        return None if rule.weighted or rule.efficiency else math.inf
    if type(rule) is Chain:
        *before, last = rule.steps
        if own_clipping(last) is None or any(type(step) is not Clipping for step in before):
            return None
        return min((step.c for step in before if isinstance(step, Clipping)), default=math.inf)
    if type(rule) is Tree and type(rule.leaf) is type(rule.root) is Mean:
        return own_clipping(Chain(rule.leaf)) and own_clipping(Chain(rule.root))
    return None


def _is_declared(rule: Aggregator) -> bool:
    """Return False if a class changes what a rule does and inherits the bound of another."""
    if isinstance(rule, Chain):
        return all(map(_is_declared, rule.steps))
    bound = "moved_rows" if rule.is_preaggregation else "sensitivity"
    mro = type(rule).__mro__
    depth = {
        name: next((i for i, cls in enumerate(mro) if name in vars(cls)), len(mro))
        for name in (bound, *_STEPS)
    }
    return all(depth[bound] <= depth[name] for name in _STEPS)


def _reason(rule: Aggregator) -> str:
    """Return why a rule has no bound of its sensitivity that is of use; empty if a part has one."""
    if isinstance(rule, Chain):
        return next((f"{step}: {why}" for step in rule.steps if (why := _reason(step))), UNDECLARED)
    if isinstance(rule, Tree):
        return "only a tree of means with equal weights has a bound: it equals their mean"
    for key in ("weighted", "efficiency"):
        if isinstance(rule, Mean) and getattr(rule, key):
            return (
                f"{key} = {str(getattr(rule, key)).lower()} counts clients by what only they know: "
                "set rule = 'mean', in which all count equally"
            )
    if type(rule) in (Mean, Clipping, Bucketing):
        return ""
    return REASONS.get(RULES.name_of(rule), UNDECLARED)
