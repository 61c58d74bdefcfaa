"""Bad replies as data, and what a Flower Strategy makes of them: ``hqde-fl audit``."""

from __future__ import annotations

from simulations.audit.catalogue import HOSTILE
from simulations.audit.row import Case, Row, Wire
from simulations.audit.trial import Finding, trial

__all__ = ["HOSTILE", "Case", "Finding", "Row", "Wire", "trial"]
