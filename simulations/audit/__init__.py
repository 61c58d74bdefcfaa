"""Bad replies as data, and what a Flower Strategy makes of them: ``hqde-fl audit``."""

from __future__ import annotations

from hqde_fl.simulations.audit.catalogue import HOSTILE
from hqde_fl.simulations.audit.row import Case, Row, Wire
from hqde_fl.simulations.audit.trial import Finding, trial

__all__ = ["HOSTILE", "Case", "Finding", "Row", "Wire", "trial"]
