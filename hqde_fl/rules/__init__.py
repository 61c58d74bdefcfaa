"""Robust aggregation rules, one file each; ``RULES`` holds the name of each in TOML files."""

from hqde_fl import catalogue
from hqde_fl.registry import Registry
from hqde_fl.rules.adaptive import Adaptive
from hqde_fl.rules.aggregation import aggregate
from hqde_fl.rules.base import Aggregator, Rule, Tolerant
from hqde_fl.rules.bucketing import Bucketing
from hqde_fl.rules.bulyan import Bulyan
from hqde_fl.rules.byzantine_filter import ByzantineFilter
from hqde_fl.rules.caf import CAF
from hqde_fl.rules.centered_clipping import CenteredClipping
from hqde_fl.rules.chain import Chain
from hqde_fl.rules.clipping import ARC, Clipping
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.dnc import DnC
from hqde_fl.rules.entanglement import Entanglement
from hqde_fl.rules.executor import Executor, SerialExecutor, ThreadedExecutor, TorchDevice
from hqde_fl.rules.fedrdf import FedRDF
from hqde_fl.rules.flame import FLAME
from hqde_fl.rules.fldetector import FLDetector
from hqde_fl.rules.fltrust import FLTrust
from hqde_fl.rules.foolsgold import FoolsGold
from hqde_fl.rules.geometric_median import GeometricMedian
from hqde_fl.rules.krum import Krum, MultiKrum
from hqde_fl.rules.lasa import LASA
from hqde_fl.rules.mda import MDA
from hqde_fl.rules.meamed import Meamed
from hqde_fl.rules.mean import Mean
from hqde_fl.rules.median import Median
from hqde_fl.rules.monna import MoNNA
from hqde_fl.rules.nnm import NNM
from hqde_fl.rules.normalised_mean import NormalisedMean
from hqde_fl.rules.results import Aggregate, Decision, Measured, Statistic
from hqde_fl.rules.robust import Robust
from hqde_fl.rules.round_context import RoundContext
from hqde_fl.rules.sign_guard import SignGuard
from hqde_fl.rules.smea import SMEA
from hqde_fl.rules.superposition import Superposition
from hqde_fl.rules.tree import Tree
from hqde_fl.rules.trimmed_mean import TrimmedMean
from hqde_fl.rules.voting import Voting

RULES: Registry[Aggregator] = catalogue.RULES

__all__ = [
    "ARC",
    "CAF",
    "FLAME",
    "LASA",
    "MDA",
    "NNM",
    "RULES",
    "SMEA",
    "Adaptive",
    "Aggregate",
    "Aggregator",
    "Bucketing",
    "Bulyan",
    "ByzantineFilter",
    "CenteredClipping",
    "Chain",
    "Clipping",
    "Cohort",
    "Decision",
    "DnC",
    "Entanglement",
    "Executor",
    "FLDetector",
    "FLTrust",
    "FedRDF",
    "FoolsGold",
    "GeometricMedian",
    "Krum",
    "Meamed",
    "Mean",
    "Measured",
    "Median",
    "MoNNA",
    "MultiKrum",
    "NormalisedMean",
    "Robust",
    "RoundContext",
    "Rule",
    "SerialExecutor",
    "SignGuard",
    "Statistic",
    "Superposition",
    "ThreadedExecutor",
    "Tolerant",
    "TorchDevice",
    "Tree",
    "TrimmedMean",
    "Voting",
    "aggregate",
]
