"""The names of the parts of simulations in a TOML file; nothing is imported."""

from __future__ import annotations

from typing import Any

from hqde_fl.registry import Registry

ATTACKS: Registry[Any] = Registry(
    "attack",
    "hqde_fl.simulations.attacks.base:Attack",
    {
        "alie": "hqde_fl.simulations.attacks.alie:ALIE",
        "constant-direction": ("hqde_fl.simulations.attacks.constant_direction:ConstantDirection"),
        "copycat": "hqde_fl.simulations.attacks.copycat:Copycat",
        "evasive": "hqde_fl.simulations.attacks.evasive:Evasive",
        "fang": "hqde_fl.simulations.attacks.fang:Fang",
        "fed-sa": "hqde_fl.simulations.attacks.fed_sa:FedSA",
        "ipm": "hqde_fl.simulations.attacks.ipm:IPM",
        "mimic": "hqde_fl.simulations.attacks.mimic:Mimic",
        "min-max": "hqde_fl.simulations.attacks.min_max:MinMax",
        "min-sum": "hqde_fl.simulations.attacks.min_sum:MinSum",
        "optimal-alie": "hqde_fl.simulations.attacks.optimal_alie:OptimalALIE",
        "optimal-ipm": "hqde_fl.simulations.attacks.optimal_ipm:OptimalIPM",
        "optimal-push": "hqde_fl.simulations.attacks.optimal_push:OptimalPush",
        "poisoned-fl": "hqde_fl.simulations.attacks.poisoned_fl:PoisonedFL",
        "sideways": "hqde_fl.simulations.attacks.sideways:Sideways",
    },
    group="hqde_fl.attacks",
)

TASKS: Registry[Any] = Registry(
    "task",
    "hqde_fl.simulations.tasks.base:BuiltinTask",
    {
        "adult": "hqde_fl.simulations.tasks.adult:Adult",
        "cifar-10": "hqde_fl.simulations.tasks.cifar:Cifar10",
        "cifar-100": "hqde_fl.simulations.tasks.cifar:Cifar100",
        "covertype": "hqde_fl.simulations.tasks.covertype:Covertype",
        "digits": "hqde_fl.simulations.tasks.digits:Digits",
        "fashion-mnist": "hqde_fl.simulations.tasks.fashion_mnist:FashionMnist",
        "femnist": "hqde_fl.simulations.tasks.femnist:Femnist",
        "mnist": "hqde_fl.simulations.tasks.mnist:Mnist",
        "shakespeare": "hqde_fl.simulations.tasks.shakespeare:Shakespeare",
        "token-order": "hqde_fl.simulations.tasks.token_order:TokenOrder",
    },
    group="hqde_fl.tasks",
)

PARTITIONERS: Registry[Any] = Registry(
    "partitioner",
    "hqde_fl.simulations.tasks.partition:Partitioner",
    {
        "dirichlet": "hqde_fl.simulations.tasks.partition:Dirichlet",
        "gamma-similarity": "hqde_fl.simulations.tasks.gamma_similarity:GammaSimilarity",
        "iid": "hqde_fl.simulations.tasks.partition:Iid",
        "pathological": "hqde_fl.simulations.tasks.partition:Pathological",
        "quantity-skew": "hqde_fl.simulations.tasks.quantity_skew:QuantitySkew",
        "shard": "hqde_fl.simulations.tasks.partition:Shard",
        "users": "hqde_fl.simulations.tasks.predefined_users:PredefinedUsers",
    },
    group="hqde_fl.partitioners",
)

SPEEDS: Registry[Any] = Registry(
    "speed",
    "hqde_fl.simulations.heterogeneity.speed:Speed",
    {
        "log-uniform": "hqde_fl.simulations.heterogeneity.speed:LogUniformSpeed",
        "trace": "hqde_fl.simulations.heterogeneity.traced:TraceSpeed",
    },
    group="hqde_fl.speeds",
)

BANDWIDTHS: Registry[Any] = Registry(
    "bandwidth",
    "hqde_fl.simulations.heterogeneity.bandwidth:Bandwidth",
    {
        "constant": "hqde_fl.simulations.heterogeneity.bandwidth:ConstantBandwidth",
        "log-uniform": "hqde_fl.simulations.heterogeneity.bandwidth:LogUniformBandwidth",
        "trace": "hqde_fl.simulations.heterogeneity.traced:TraceBandwidth",
    },
    group="hqde_fl.bandwidths",
)

DROP_OUTS: Registry[Any] = Registry(
    "drop-out",
    "hqde_fl.simulations.heterogeneity.drop_out:DropOut",
    {
        "random": "hqde_fl.simulations.heterogeneity.drop_out:RandomDropOut",
        "trace": "hqde_fl.simulations.heterogeneity.traced:TraceDropOut",
    },
    group="hqde_fl.drop_outs",
)

ENGINES = {
    "flower": "Flower's simulation, or with --superlink real nodes.",
    "inline": "All clients in this process, one after another.",
    "ray": "Clients in Ray's workers, on this machine or a cluster.",
}
"""Name of an engine -> what it is."""
