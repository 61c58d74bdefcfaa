"""Faults of a single client, as Flower client mods; the registry ``FAULTS`` lists them by name."""

from __future__ import annotations

from hqde_fl.clients import catalogue
from hqde_fl.clients.faults.backdoor import Backdoor
from hqde_fl.clients.faults.backdoor_base import BackdoorFault, attack_success
from hqde_fl.clients.faults.base import Fault
from hqde_fl.clients.faults.crash import Crash
from hqde_fl.clients.faults.distributed_backdoor import DistributedBackdoor
from hqde_fl.clients.faults.edge_cases import EdgeCases
from hqde_fl.clients.faults.fault_plan import (
    FaultPlan,
    FaultSchedule,
    FaultyClients,
    PartitionChoice,
    choose_faulty_clients,
    client_count,
    count_from_fraction,
)
from hqde_fl.clients.faults.free_ride import FreeRide
from hqde_fl.clients.faults.garbage import Garbage
from hqde_fl.clients.faults.gaussian import Gaussian
from hqde_fl.clients.faults.infinity import Infinity
from hqde_fl.clients.faults.kill import Kill
from hqde_fl.clients.faults.label_flip import LabelFlip
from hqde_fl.clients.faults.model_replacement import ModelReplacement
from hqde_fl.clients.faults.nan import NaN
from hqde_fl.clients.faults.neurotoxin import Neurotoxin
from hqde_fl.clients.faults.num_examples import NumExamples
from hqde_fl.clients.faults.only_for import only_for
from hqde_fl.clients.faults.partial import Partial
from hqde_fl.clients.faults.projected_backdoor import ProjectedBackdoor
from hqde_fl.clients.faults.scaling import Scaling
from hqde_fl.clients.faults.semantic_backdoor import SemanticBackdoor
from hqde_fl.clients.faults.sign_flip import SignFlip
from hqde_fl.clients.faults.stale import Stale
from hqde_fl.clients.faults.statistics import Statistics
from hqde_fl.clients.faults.straggle import Straggle
from hqde_fl.clients.faults.wrong_dtype import WrongDtype
from hqde_fl.clients.faults.wrong_shape import WrongShape
from hqde_fl.clients.faults.zero import Zero
from hqde_fl.registry import Registry

FAULTS: Registry[Fault] = catalogue.FAULTS

__all__ = [
    "FAULTS",
    "Backdoor",
    "BackdoorFault",
    "Crash",
    "DistributedBackdoor",
    "EdgeCases",
    "Fault",
    "FaultPlan",
    "FaultSchedule",
    "FaultyClients",
    "FreeRide",
    "Garbage",
    "Gaussian",
    "Infinity",
    "Kill",
    "LabelFlip",
    "ModelReplacement",
    "NaN",
    "Neurotoxin",
    "NumExamples",
    "Partial",
    "PartitionChoice",
    "ProjectedBackdoor",
    "Scaling",
    "SemanticBackdoor",
    "SignFlip",
    "Stale",
    "Statistics",
    "Straggle",
    "WrongDtype",
    "WrongShape",
    "Zero",
    "attack_success",
    "choose_faulty_clients",
    "client_count",
    "count_from_fraction",
    "only_for",
]
