"""The outcomes that a client can have in a round, as records, files and reports name them."""

from __future__ import annotations

KEPT = "kept"
FILTERED = "filtered"
REJECTED = "rejected"
FAILED = "failed"
LATE = "late"
SKIPPED = "skipped"

UNJUDGED = (REJECTED, FAILED, LATE, SKIPPED)
"""Outcomes of clients whose update never reached the rule."""

NOT_KEPT = (FILTERED, *UNJUDGED)
"""All outcomes but ``KEPT``."""


def outcome_of(reason: str | None) -> str:
    """Return the outcome that a client's reason begins with, or "" for a client without a reason.

    Parameters
    ----------
    reason : str or None
        ``ClientRecord.reason``, such as ``failed: RuntimeError: no memory``.
    """
    return (reason or "").partition(":")[0]
