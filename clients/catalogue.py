"""The names of faults, metrics and client optimisers in a TOML file; nothing is imported."""

from __future__ import annotations

from typing import Any

from hqde_fl.registry import Registry

FAULTS: Registry[Any] = Registry(
    "fault",
    "hqde_fl.clients.faults.base:Fault",
    {
        "backdoor": "hqde_fl.clients.faults.backdoor:Backdoor",
        "crash": "hqde_fl.clients.faults.crash:Crash",
        "distributed-backdoor": ("hqde_fl.clients.faults.distributed_backdoor:DistributedBackdoor"),
        "edge-cases": "hqde_fl.clients.faults.edge_cases:EdgeCases",
        "free-ride": "hqde_fl.clients.faults.free_ride:FreeRide",
        "garbage": "hqde_fl.clients.faults.garbage:Garbage",
        "gaussian": "hqde_fl.clients.faults.gaussian:Gaussian",
        "infinity": "hqde_fl.clients.faults.infinity:Infinity",
        "kill": "hqde_fl.clients.faults.kill:Kill",
        "label-flip": "hqde_fl.clients.faults.label_flip:LabelFlip",
        "model-replacement": "hqde_fl.clients.faults.model_replacement:ModelReplacement",
        "nan": "hqde_fl.clients.faults.nan:NaN",
        "neurotoxin": "hqde_fl.clients.faults.neurotoxin:Neurotoxin",
        "num-examples": "hqde_fl.clients.faults.num_examples:NumExamples",
        "partial": "hqde_fl.clients.faults.partial:Partial",
        "projected-backdoor": "hqde_fl.clients.faults.projected_backdoor:ProjectedBackdoor",
        "scaling": "hqde_fl.clients.faults.scaling:Scaling",
        "semantic-backdoor": "hqde_fl.clients.faults.semantic_backdoor:SemanticBackdoor",
        "sign-flip": "hqde_fl.clients.faults.sign_flip:SignFlip",
        "stale": "hqde_fl.clients.faults.stale:Stale",
        "statistics": "hqde_fl.clients.faults.statistics:Statistics",
        "straggle": "hqde_fl.clients.faults.straggle:Straggle",
        "wrong-dtype": "hqde_fl.clients.faults.wrong_dtype:WrongDtype",
        "wrong-shape": "hqde_fl.clients.faults.wrong_shape:WrongShape",
        "zero": "hqde_fl.clients.faults.zero:Zero",
    },
    group="hqde_fl.faults",
)

OPTIMIZERS = {
    "adam": "Adam (Kingma and Ba 2015); weight-decay is an L2 penalty.",
    "adamw": "Adam with decoupled weight decay (Loshchilov and Hutter 2019).",
    "sgd": "Stochastic gradient descent, with momentum.",
}
"""Name of a client's optimiser -> what it is."""

METRICS = {
    "class-accuracy": "Accuracy of each class, and of the worst one; higher is better.",
    "accuracy": "Fraction of the targets whose class has the largest score; higher is better.",
    "loss": "Mean of the task's loss; lower is better.",
}
"""Name of a metric that a task has unless it names others -> what it is."""
