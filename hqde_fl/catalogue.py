"""The names of rules, codecs, votes, executors, selectors, schedules and so on in a TOML file.

Nothing is imported for them. The modules ``catalogue`` of strategies, clients and simulations have
the names of their parts.
"""

from __future__ import annotations

from typing import Any

from hqde_fl.registry import Registry

RULES: Registry[Any] = Registry(
    "rule",
    "hqde_fl.rules.base:Aggregator",
    {
        "adaptive": "hqde_fl.rules.adaptive:Adaptive",
        "arc": "hqde_fl.rules.clipping:ARC",
        "bucketing": "hqde_fl.rules.bucketing:Bucketing",
        "bulyan": "hqde_fl.rules.bulyan:Bulyan",
        "byzantine-filter": "hqde_fl.rules.byzantine_filter:ByzantineFilter",
        "caf": "hqde_fl.rules.caf:CAF",
        "centered-clipping": "hqde_fl.rules.centered_clipping:CenteredClipping",
        "chain": "hqde_fl.rules.chain:Chain",
        "clipping": "hqde_fl.rules.clipping:Clipping",
        "dnc": "hqde_fl.rules.dnc:DnC",
        "entanglement": "hqde_fl.rules.entanglement:Entanglement",
        "fedrdf": "hqde_fl.rules.fedrdf:FedRDF",
        "flame": "hqde_fl.rules.flame:FLAME",
        "fldetector": "hqde_fl.rules.fldetector:FLDetector",
        "fltrust": "hqde_fl.rules.fltrust:FLTrust",
        "foolsgold": "hqde_fl.rules.foolsgold:FoolsGold",
        "geometric-median": "hqde_fl.rules.geometric_median:GeometricMedian",
        "krum": "hqde_fl.rules.krum:Krum",
        "lasa": "hqde_fl.rules.lasa:LASA",
        "mda": "hqde_fl.rules.mda:MDA",
        "meamed": "hqde_fl.rules.meamed:Meamed",
        "mean": "hqde_fl.rules.mean:Mean",
        "median": "hqde_fl.rules.median:Median",
        "monna": "hqde_fl.rules.monna:MoNNA",
        "multi-krum": "hqde_fl.rules.krum:MultiKrum",
        "nnm": "hqde_fl.rules.nnm:NNM",
        "normalised-mean": "hqde_fl.rules.normalised_mean:NormalisedMean",
        "robust": "hqde_fl.rules.robust:Robust",
        "sign-guard": "hqde_fl.rules.sign_guard:SignGuard",
        "smea": "hqde_fl.rules.smea:SMEA",
        "superposition": "hqde_fl.rules.superposition:Superposition",
        "tree": "hqde_fl.rules.tree:Tree",
        "trimmed-mean": "hqde_fl.rules.trimmed_mean:TrimmedMean",
        "voting": "hqde_fl.rules.voting:Voting",
    },
    group="hqde_fl.rules",
)

CODECS: Registry[Any] = Registry(
    "codec",
    "hqde_fl.codec.base:Codec",
    {
        "adaptive-quantizer": "hqde_fl.codec.adaptive:AdaptiveQuantizer",
        "entropy-coded": "hqde_fl.codec.entropy:EntropyCoded",
        "error-feedback": "hqde_fl.codec.error_feedback:ErrorFeedback",
        "identity": "hqde_fl.codec.identity:Identity",
        "quantized": "hqde_fl.codec.quantized:Quantized",
        "rotated": "hqde_fl.codec.rotation:Rotated",
        "top-k": "hqde_fl.codec.topk:TopK",
    },
    group="hqde_fl.codecs",
)

VOTES: Registry[Any] = Registry(
    "vote",
    "hqde_fl.prediction.base:Vote",
    {
        "adaptive": "hqde_fl.prediction.adaptive:AdaptiveVote",
        "entanglement": "hqde_fl.prediction.entanglement:EntanglementVote",
        "soft-vote": "hqde_fl.prediction.soft_vote:SoftVote",
        "superposition": "hqde_fl.prediction.superposition:SuperpositionVote",
        "voting": "hqde_fl.prediction.voting:CircularVote",
    },
    group="hqde_fl.votes",
)

EXECUTORS: Registry[Any] = Registry(
    "executor",
    "hqde_fl.rules.executor:Executor",
    {
        "auto": "hqde_fl.distributed.auto_executor:AutoExecutor",
        "map-reduce": "hqde_fl.distributed.mapreduce:MapReduce",
        "serial": "hqde_fl.rules.executor:SerialExecutor",
        "threads": "hqde_fl.rules.executor:ThreadedExecutor",
        "torch-device": "hqde_fl.rules.executor:TorchDevice",
    },
    group="hqde_fl.executors",
)

SELECTORS: Registry[Any] = Registry(
    "selector",
    "hqde_fl.selection.base:Selector",
    {
        "adaptive": "hqde_fl.selection.adaptive:AdaptiveSelector",
        "least-loaded": "hqde_fl.selection.least_loaded:LeastLoaded",
        "oort": "hqde_fl.selection.oort:Oort",
        "poisson": "hqde_fl.selection.poisson:Poisson",
        "power-of-choice": "hqde_fl.selection.power_of_choice:PowerOfChoice",
        "qubo": "hqde_fl.selection.qubo:QUBO",
        "round-robin": "hqde_fl.selection.round_robin:RoundRobin",
        "uniform": "hqde_fl.selection.uniform:Uniform",
    },
    group="hqde_fl.selectors",
)

NOISE_SOURCES: Registry[Any] = Registry(
    "noise source",
    "hqde_fl.privacy.noise_source:NoiseSource",
    {
        "secure-gaussian": "hqde_fl.privacy.secure_gaussian:SecureGaussian",
        "seeded-gaussian": "hqde_fl.privacy.noise_source:SeededGaussian",
        "quantum-gaussian": "hqde_fl.privacy.quantum_gaussian:QuantumGaussian",
    },
    group="hqde_fl.noise_sources",
)

SCHEDULES: Registry[Any] = Registry(
    "schedule",
    "hqde_fl.schedules.base:Schedule",
    {
        "constant": "hqde_fl.schedules.constant:Constant",
        "cosine": "hqde_fl.schedules.cosine:Cosine",
        "linear": "hqde_fl.schedules.linear:Linear",
        "multi-step": "hqde_fl.schedules.multi_step:MultiStep",
        "step": "hqde_fl.schedules.step:Step",
        "warm-up": "hqde_fl.schedules.warm_up:WarmUp",
    },
    group="hqde_fl.schedules",
)
