"""Prediction by an ensemble: members' class probabilities combined, with their uncertainty."""

from hqde_fl.prediction.adaptive import AdaptiveVote
from hqde_fl.prediction.base import Vote
from hqde_fl.prediction.calibration import calibration_error, negative_log_likelihood
from hqde_fl.prediction.differences import MemberDifferences, disagreement, diversity
from hqde_fl.prediction.entanglement import EntanglementVote
from hqde_fl.prediction.predictor import (
    VOTES,
    EnsemblePredictor,
    Prediction,
)
from hqde_fl.prediction.scores import ClassifierScores, EnsembleScores
from hqde_fl.prediction.soft_vote import SoftVote
from hqde_fl.prediction.superposition import SuperpositionVote
from hqde_fl.prediction.voting import CircularVote

__all__ = [
    "VOTES",
    "AdaptiveVote",
    "CircularVote",
    "ClassifierScores",
    "EnsemblePredictor",
    "EnsembleScores",
    "EntanglementVote",
    "MemberDifferences",
    "Prediction",
    "SoftVote",
    "SuperpositionVote",
    "Vote",
    "calibration_error",
    "disagreement",
    "diversity",
    "negative_log_likelihood",
]
