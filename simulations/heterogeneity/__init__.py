"""Simulated heterogeneity: slow and fast clients, thin lines and drop-outs, in virtual time."""

from hqde_fl.simulations.catalogue import BANDWIDTHS, DROP_OUTS, SPEEDS
from hqde_fl.simulations.heterogeneity.bandwidth import (
    Bandwidth,
    Connection,
    ConstantBandwidth,
    LogUniformBandwidth,
)
from hqde_fl.simulations.heterogeneity.drop_out import DropOut, RandomDropOut
from hqde_fl.simulations.heterogeneity.speed import LogUniformSpeed, Speed
from hqde_fl.simulations.heterogeneity.traced import TraceBandwidth, TraceDropOut, TraceSpeed

__all__ = [
    "BANDWIDTHS",
    "DROP_OUTS",
    "SPEEDS",
    "Bandwidth",
    "Connection",
    "ConstantBandwidth",
    "DropOut",
    "LogUniformBandwidth",
    "LogUniformSpeed",
    "RandomDropOut",
    "Speed",
    "TraceBandwidth",
    "TraceDropOut",
    "TraceSpeed",
]
