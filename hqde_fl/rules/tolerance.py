"""The number of faulty clients that a rule works with in a round.

f is the number of faulty clients that the user expects. Clients that drop out do not make the
others more honest, so a rule works with the full f for as long as enough updates are left for it.
If they are too few, and clients have been rejected or have failed, f is lowered by the least number
of these that makes the updates suffice: a client that crashes or sends garbage cannot stop a run
whose f covers it. Clients that are late or have no data never lower f.
"""

from __future__ import annotations

from dataclasses import replace

from hqde_fl.rules.base import Aggregator
from hqde_fl.rules.cohort import Cohort


def excused(rule: Aggregator, cohort: Cohort) -> int:
    """Return by how much f is lowered in a round, once for the whole rule.

    The least k in 0..``cohort.faulty`` with ``cohort.n >= rule.minimum(k)``.

    Parameters
    ----------
    rule : Aggregator
        A rule, a chain or a tree.
    cohort : Cohort
        The clients of the round.

    Raises
    ------
    BoundError
        If there is no such k: the round is void.
    """
    for k in range(cohort.faulty):
        if cohort.n >= rule.minimum(k):
            return k
    name, f = str(rule), rule.expected_faulty
    if f and rule.minimum(cohort.faulty) < rule.minimum():
        name += f" with f lowered to {max(0, f - cohort.faulty)}"
    cohort.require(name, rule.minimum(cohort.faulty))
    return cohort.faulty


def apply_tolerance(rule: Aggregator, cohort: Cohort) -> Cohort:
    """Return a copy of the cohort with ``excused`` set to what a rule's f has to be lowered by.

    Raises
    ------
    BoundError
        If the updates are too few even with f lowered by ``cohort.faulty``.
    """
    return replace(cohort, excused=excused(rule, cohort))


def silence_warning(rule: Aggregator, clients: int, owner: str = "") -> str | None:
    """Return a warning if f silent clients, or fewer, suffice to void every round; else None.

    Parameters
    ----------
    rule : Aggregator
        The rule.
    clients : int
        The clients that are sent a message in a round.
    owner : str, default=""
        Text after "clients", for instance naming the member that they train.

    Returns
    -------
    str or None
        One line; None if ``clients - f >= rule.minimum()``, if the clients are too few even when
        all answer, or if the rule has no f.
    """
    f, minimum = rule.expected_faulty, rule.minimum()
    if f is None or clients < minimum or clients - f >= minimum:
        return None
    silent = clients - minimum + 1
    return (
        f"{rule} needs {minimum} updates, found {clients} clients{owner}: a round is void as soon "
        f"as {silent} of them {'is' if silent == 1 else 'are'} late or without data; "
        f"to bear f = {f} such clients it needs {minimum + f}, or a lower f"
    )
