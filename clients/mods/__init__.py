"""Flower client mods. Here: local faults, one file each, in the catalogue ``FAULTS``."""

from __future__ import annotations

from clients.mods.backdoor import Backdoor, attack_success
from clients.mods.base import Fault
from clients.mods.choose import Chosen, FaultPlan, Schedule, Who, choose, only_for, share, size
from clients.mods.crash import Crash
from clients.mods.free_ride import FreeRide
from clients.mods.garbage import Garbage
from clients.mods.gaussian import Gaussian
from clients.mods.infinity import Infinity
from clients.mods.kill import Kill
from clients.mods.label_flip import LabelFlip
from clients.mods.nan import NaN
from clients.mods.num_examples import NumExamples
from clients.mods.partial import Partial
from clients.mods.scaling import Scaling
from clients.mods.sign_flip import SignFlip
from clients.mods.stale import Stale
from clients.mods.straggle import Straggle
from clients.mods.wrong_dtype import WrongDtype
from clients.mods.wrong_shape import WrongShape
from clients.mods.zero import Zero
from hqde_fl.catalogue import Catalogue

FAULTS: Catalogue[Fault] = Catalogue(
    "fault",
    Fault,  # type: ignore[type-abstract]
    {
        "backdoor": Backdoor,
        "crash": Crash,
        "free-ride": FreeRide,
        "garbage": Garbage,
        "gaussian": Gaussian,
        "infinity": Infinity,
        "kill": Kill,
        "label-flip": LabelFlip,
        "nan": NaN,
        "num-examples": NumExamples,
        "partial": Partial,
        "scaling": Scaling,
        "sign-flip": SignFlip,
        "stale": Stale,
        "straggle": Straggle,
        "wrong-dtype": WrongDtype,
        "wrong-shape": WrongShape,
        "zero": Zero,
    },
)

__all__ = [
    "FAULTS",
    "Backdoor",
    "Chosen",
    "Crash",
    "Fault",
    "FaultPlan",
    "FreeRide",
    "Garbage",
    "Gaussian",
    "Infinity",
    "Kill",
    "LabelFlip",
    "NaN",
    "NumExamples",
    "Partial",
    "Scaling",
    "Schedule",
    "SignFlip",
    "Stale",
    "Straggle",
    "Who",
    "WrongDtype",
    "WrongShape",
    "Zero",
    "attack_success",
    "choose",
    "only_for",
    "share",
    "size",
]
