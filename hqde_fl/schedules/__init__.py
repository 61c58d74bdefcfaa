"""Schedules of learning rates over the rounds of a run, on clients and on the server."""

from hqde_fl.catalogue import SCHEDULES
from hqde_fl.schedules.base import Schedule, scheduled_rate
from hqde_fl.schedules.constant import Constant
from hqde_fl.schedules.cosine import Cosine
from hqde_fl.schedules.linear import Linear
from hqde_fl.schedules.multi_step import MultiStep
from hqde_fl.schedules.step import Step
from hqde_fl.schedules.warm_up import WarmUp

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Linear",
    "MultiStep",
    "Schedule",
    "Step",
    "WarmUp",
    "scheduled_rate",
]
