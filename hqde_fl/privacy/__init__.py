"""Differential privacy: mechanisms, noise sources and accounting."""

from hqde_fl import catalogue
from hqde_fl.privacy.accounting import Accountant
from hqde_fl.privacy.central import AdaptiveClipping, CentralDP
from hqde_fl.privacy.noise_source import NoiseSource, SeededGaussian
from hqde_fl.privacy.sampling import Sampling
from hqde_fl.privacy.secure_gaussian import SecureGaussian
from hqde_fl.registry import Registry

NOISE_SOURCES: Registry[NoiseSource] = catalogue.NOISE_SOURCES

__all__ = [
    "NOISE_SOURCES",
    "Accountant",
    "AdaptiveClipping",
    "CentralDP",
    "NoiseSource",
    "Sampling",
    "SecureGaussian",
    "SeededGaussian",
]
