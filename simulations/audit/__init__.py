"""A catalogue of hostile replies and trials of Flower Strategies with them: ``hqde-fl audit``."""

from __future__ import annotations

from hqde_fl.simulations.audit.catalogue import HOSTILE
from hqde_fl.simulations.audit.catalogue_row import AnswerContext, CatalogueRow, UploadedReply
from hqde_fl.simulations.audit.trial import Finding, trial

__all__ = ["HOSTILE", "AnswerContext", "CatalogueRow", "Finding", "UploadedReply", "trial"]
