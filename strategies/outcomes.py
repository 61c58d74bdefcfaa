"""The outcomes that a client can have in a round, as records, files and reports name them."""

from __future__ import annotations

KEPT = "kept"
FILTERED = "filtered"
REJECTED = "rejected"
FAILED = "failed"
LATE = "late"
MISSING = "missing"
SKIPPED = "skipped"

UNJUDGED = (REJECTED, FAILED, LATE, MISSING, SKIPPED)
"""Outcomes of clients whose update never reached the rule.

``missing`` is that of a client that lacked a part of the model: it could not train, and is sent the
model in full in the next message.
"""

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
