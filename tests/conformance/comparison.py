"""Compare a peer with ours on generated cases, and trace every disagreement to its reason."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from tests.conformance import equations
from tests.conformance.cases import Case
from tests.conformance.peers import Pair, installed_pairs
from tests.conformance.subjects import SUBJECTS, Function, Subject

TOLERANCE = 1e-5
"""Largest difference, in units of the largest magnitude of the rows, that counts as agreement."""

CONVERGENCE = 1e-3
"""Largest difference that steps towards an eigenvector may leave, of which a peer takes many."""

TIE = "both are results that the paper admits: a tie"
ARITHMETIC = (
    "rounding, overflow or underflow: on the same rows in float64 and scaled to 1 they agree"
)
NOTHING = "raises or returns nothing"
NOT_A_NUMBER = "divides zero by zero where rows coincide, and goes on with NaN"
ENDLESS = "does not end (stopped after a fifth of a second of its own)"
EQUALLY_FAR = "rows that are equally far: rounding leaves one of them some weight"
SECONDS = 0.2
UNEXPLAINED = "unexplained"
OURS = "ours departs from the paper"


@dataclass
class Tally:
    """Counts of one pair: cases run, agreed, and by reason those that disagreed."""

    subject: str
    peer: str
    cases: int = 0
    agreed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    minimal: dict[str, tuple[int, Case]] = field(default_factory=dict)

    def note(self, reason: str, index: int, case: Case) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        known = self.minimal.get(reason)
        if known is None or case.rows.size < known[1].rows.size:
            self.minimal[reason] = (index, case)


class EndlessError(Exception):
    """A call that used up its seconds."""


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raise ``EndlessError`` in the block once it has computed for some seconds."""

    def stop(signum: int, frame: object) -> None:
        raise EndlessError

    before = signal.signal(signal.SIGVTALRM, stop)
    # again and again: an exception that is raised in a destructor is lost
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds / 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def result_of(function: Function, case: Case, seconds: float = SECONDS) -> np.ndarray | None:
    """Return a function's result in units of the normalised case; None if there is none."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            with limited(seconds):
                result = function(case)
        except EndlessError:
            raise
        except Exception:  # whatever a peer raises is one of its answers
            return None
    if result is None:
        return None
    return np.asarray(result, dtype=np.float64) / case.unit


def agree(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    """Return True if two results are equal to within the tolerance."""
    return (
        first is not None
        and second is not None
        and first.shape == second.shape
        and bool((np.abs(first - second) <= TOLERANCE).all())
    )


def compare(pair: Pair, cases: int) -> Tally:
    """Return the tally of a pair over its subject's first cases."""
    subject, tally = SUBJECTS[pair.subject], Tally(pair.subject, pair.peer)
    for index in range(cases):
        case = subject.case(index)
        tally.cases += 1
        try:
            ours, theirs = result_of(subject.ours, case), result_of(pair.theirs, case)
            if agree(ours, theirs):
                tally.agreed += 1
            else:
                tally.note(reason_for(pair, subject, case, ours, theirs), index, case)
        except EndlessError:
            tally.note(ENDLESS, index, case)
    return tally


def reason_for(
    pair: Pair,
    subject: Subject,
    case: Case,
    ours: np.ndarray | None,
    theirs: np.ndarray | None,
) -> str:
    """Return why two results differ."""
    wide = case.normalised()
    if "+" in pair.subject:
        return chain_reason(pair, case)
    if not subject.is_admitted(wide, ours, TOLERANCE):
        return OURS
    if subject.is_admitted(wide, theirs, TOLERANCE):
        return TIE
    try:
        again = result_of(pair.theirs, wide)
    except EndlessError:
        again = None
    candidates = [theirs] if subject.is_admitted(wide, again, TOLERANCE) else [theirs, again]
    for variant in pair.variants:
        by_variant = replace(subject, equation=variant.equation, criterion=None)
        if any(by_variant.is_admitted(wide, result, TOLERANCE) for result in candidates):
            return variant.reason
    if len(candidates) == 1:
        return ARITHMETIC
    if pair.repaired is not None:
        try:
            repaired = result_of(pair.repaired.function, wide, 2.0)
        except EndlessError:
            return f"{pair.repaired.reason}; with this repaired it does not end"
        if subject.is_admitted(wide, repaired, TOLERANCE):
            return pair.repaired.reason
        for variant in pair.variants:
            by_variant = replace(subject, equation=variant.equation, criterion=None)
            if by_variant.is_admitted(wide, repaired, CONVERGENCE):
                return f"{pair.repaired.reason}, and {variant.reason}"
    if again is None:
        return NOTHING
    if pair.subject == "caf" and equations.caf_has_ties(wide):
        return EQUALLY_FAR
    return NOT_A_NUMBER if meets_nan(pair.theirs, wide) else UNEXPLAINED


def meets_nan(function: Function, case: Case) -> bool:
    """Return True if NumPy meets an invalid operation while a function runs."""
    with np.errstate(invalid="raise", divide="raise"), limited():
        try:
            function(case)
        except FloatingPointError:
            return True
    return False


def chain_reason(pair: Pair, case: Case) -> str:
    """Return why the first stage of a chain differs, or if it does not, the second."""
    first, last = pair.subject.split("+")
    stages = {p.subject: p for p in installed_pairs() if p.peer == pair.peer}
    ours, theirs = result_of(SUBJECTS[first].ours, case), result_of(stages[first].theirs, case)
    if not agree(ours, theirs):
        return f"{first}: " + reason_for(stages[first], SUBJECTS[first], case, ours, theirs)
    between = replace(case, rows=SUBJECTS[first].ours(case).astype(case.rows.dtype))
    ours, theirs = (result_of(f, between) for f in (SUBJECTS[last].ours, stages[last].theirs))
    if not agree(ours, theirs):
        return f"{last}: " + reason_for(stages[last], SUBJECTS[last], between, ours, theirs)
    wide = case.normalised()
    if agree(result_of(SUBJECTS[pair.subject].ours, wide), result_of(pair.theirs, wide)):
        return ARITHMETIC
    # the stages agree one by one: rounding of the first one's rows decides a tie of the second
    inner = replace(wide, rows=SUBJECTS[first].ours(case) / case.unit)
    theirs = result_of(pair.theirs, case)
    if SUBJECTS[last].is_admitted(inner, theirs, TOLERANCE):
        return f"{last}: {TIE}"
    for variant in stages[last].variants:  # that has ties of its own
        by_variant = replace(SUBJECTS[last], equation=variant.equation, criterion=None)
        if by_variant.is_admitted(inner, theirs, TOLERANCE):
            return f"{last}: {variant.reason}"
    return UNEXPLAINED


def compare_one(index: int, cases: int) -> Tally:
    """Return the tally of one of the installed pairs, by its index."""
    torch.set_num_threads(1)
    return compare(installed_pairs()[index], cases)
