"""The settings of an ``HQDESystem``, built from HQDE's configuration dictionaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Self

import torch

from hqde_fl.clients.training import Training
from hqde_fl.codec import CODECS, AdaptiveQuantizer, Codec
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.noise import ExplorationNoise
from hqde_fl.prediction import VOTES, EnsemblePredictor
from hqde_fl.privacy import NOISE_SOURCES, AdaptiveClipping, CentralDP
from hqde_fl.registry import Registry
from hqde_fl.rules import RULES, Aggregator, Superposition
from hqde_fl.simulations.system.worker_steps import (
    BATCH_ASSIGNMENTS,
    SCALING_RULES,
    scaled,
    server_sgd,
    step_ratio,
    worker_batch,
)
from hqde_fl.strategies.exploration import ExploringOptimizer
from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS, SGD, ServerOptimizer

Config = Mapping[str, Any]

LEARNING_RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05}
"""Default learning rate of each optimiser."""

TRAINING: Registry[Training] = Registry("training", Training, {"training": Training})

PRIVACY: Registry[CentralDP] = Registry("privacy", CentralDP, {"central": CentralDP})
ADAPTIVE: Registry[AdaptiveClipping] = Registry(
    "adaptive clipping", AdaptiveClipping, {"quantile": AdaptiveClipping}
)

EXCLUDED_TRAINING_KEYS = {
    "batch_size": "the loader says it",
    "control_variates": "SCAFFOLD is for experiments (clients.control-variates)",
    "epochs": "train(loader, num_epochs) says it",
    "keep_optimizer": "a worker's optimiser begins anew in each epoch; it is for experiments",
    "lr": "HQDE's name for it is 'learning_rate'",
    "lr_schedule": "schedules count the rounds of experiments (clients.lr-schedule)",
    "loss_fn": "create_hqde_system(..., loss_fn=...) takes it",
    "steps": "a worker trains on all of its examples in each epoch; it is for experiments",
}
"""Keys that a training configuration must not have -> the reason."""


@dataclass(frozen=True)
class Settings:
    """Settings of a system's training, aggregation and prediction.

    Parameters
    ----------
    codec : Codec
        Codec of the workers' updates.
    rule : Aggregator
        Rule that merges the updates.
    server_optimizer : ServerOptimizer
        Optimiser that applies the merged update to the model.
    training : Training
        Settings of training in one place, except for the batch size, which is the loader's;
        ``worker_training`` makes a worker's of them.
    members : int
        Number of models in the ensemble, >= 1.
    predictor : EnsemblePredictor
        Combines the members' predictions.
    batch_assignment : "split" or "whole"
        Split the loader's batches among the workers, or let each worker train on batches of that
        size of its portion.
    scaling_rule : "auto" or "none"
        Scale the learning rate to the number of steps, or keep it.
    server_gain : float
        Factor by which the momentum of the default server optimiser lengthens steady updates, >= 1;
        1 for a server optimiser that the user chose.
    privacy : CentralDP, optional
        Differential privacy of each worker's data.
    """

    codec: Codec = field(default_factory=AdaptiveQuantizer)
    rule: Aggregator = field(default_factory=Superposition)
    server_optimizer: ServerOptimizer = field(default_factory=SGD)
    training: Training = field(
        default_factory=lambda: Training(optimizer="adamw", lr=LEARNING_RATES["adamw"])
    )
    members: int = 1
    predictor: EnsemblePredictor = field(default_factory=EnsemblePredictor)
    batch_assignment: str = "split"
    scaling_rule: str = "auto"
    server_gain: float = 1.0
    privacy: CentralDP | None = None

    @classmethod
    def of(
        cls,
        quantization: Config | Codec | None,
        aggregation: Config | None,
        training: Config | None,
        seed: int = 0,
        workers: int = 1,
    ) -> Self:
        """Build the settings for some workers from three configurations.

        The configurations and the seed are those of ``create_hqde_system``.

        Raises
        ------
        ConfigError
            For an unknown key or an impossible value.
        """
        own_training = _training(table("training_config", training))
        server = SGD()
        if own_training["scaling_rule"] == "auto":
            server = server_sgd(own_training["training"].optimizer, workers)
        config = table("aggregation_config", aggregation)
        return cls(
            codec=_codec(quantization),
            **_aggregation(config, seed, server),
            **own_training,
            server_gain=1.0 if "server_optimizer" in config else 1 / (1 - server.momentum),
        )

    def worker_training(self, batch_size: int, examples: int, workers: int) -> Training:
        """Return a worker's settings of training.

        Parameters
        ----------
        batch_size : int
            The loader's batch size.
        examples : int
            Number of examples in the loader's data set.
        workers : int
            Number of workers that share them.
        """
        own_batch = worker_batch(batch_size, workers, self.batch_assignment)
        training = replace(self.training, batch_size=own_batch)
        if self.scaling_rule == "none":
            return training
        ratio = step_ratio(batch_size, own_batch, examples, workers)
        return scaled(training, ratio, self.server_gain)


def whole(name: str, value: Any, minimum: int) -> int:
    """Return a parameter's value as an int; ``ConfigError`` unless it is a whole number >= minimum.

    A bool, or a float such as 2.0, is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ConfigError(f"{name} must be a whole number >= {minimum}, found {value!r}")
    return int(value)


def table(name: str, config: Any) -> dict[str, Any]:
    """Return a copy of a configuration as a dictionary; an empty one for None.

    Raises ``ConfigError`` for anything but a mapping or None.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"{name} must be a dictionary, found {config!r}")
    return dict(config or {})


def check_device(device: str) -> None:
    """Raise ``ConfigError`` unless torch can use a device in this process."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"training_config['device'] {device!r} cannot be used: {reason}"
        ) from None


def _codec(config: Config | Codec | None) -> Codec:
    if isinstance(config, Codec):
        return config
    parameters = table("quantization_config", config)
    if "name" not in parameters:
        _require_known("quantization_config", parameters, _fields(AdaptiveQuantizer))
        parameters["name"] = "adaptive-quantizer"
    return CODECS.build(_kebab(parameters))


def _aggregation(config: dict[str, Any], seed: int, server: ServerOptimizer) -> dict[str, Any]:
    known = ("rule", "server_optimizer", "noise_scale", "exploration_factor", "privacy")
    _require_known("aggregation_config", config, known)
    optimizer = _built(SERVER_OPTIMIZERS, config.get("server_optimizer", server))
    scale = _number("aggregation_config", config, "noise_scale", 0.0)
    decay = _number("aggregation_config", config, "exploration_factor", 0.1)
    if "exploration_factor" in config and not scale:
        raise ConfigError(
            "aggregation_config['exploration_factor'] says how fast the noise of noise_scale dies "
            "down: it needs noise_scale > 0"
        )
    if scale:
        optimizer = ExploringOptimizer(ExplorationNoise(scale, decay=decay), optimizer, seed)
    rule = _built(RULES, config.get("rule", Superposition()))
    if rule.is_preaggregation:
        raise ConfigError(f"aggregation_config['rule'] {rule} feeds a rule: put both into a chain")
    return {"rule": rule, "server_optimizer": optimizer, "privacy": _privacy(config)}


def _privacy(config: Config) -> CentralDP | None:
    """Return the differential privacy of an aggregation configuration; None without it."""
    value = config.get("privacy")
    if value is None or isinstance(value, CentralDP):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(
            "aggregation_config['privacy'] must be a CentralDP or its parameters, "
            f"found {type(value).__name__}"
        )
    own = {key: part for key, part in value.items() if key not in ("adaptive", "noise")}
    built = PRIVACY.build({"name": "central", **_kebab(own)})
    noise = _built(NOISE_SOURCES, value.get("noise", built.noise))
    adaptive = value.get("adaptive")
    if isinstance(adaptive, Mapping):
        adaptive = ADAPTIVE.build({"name": "quantile", **_kebab(adaptive)})
    return replace(built, noise=noise, adaptive=adaptive)


def _training(config: dict[str, Any]) -> dict[str, Any]:
    for key in EXCLUDED_TRAINING_KEYS:
        if key in config:
            raise ConfigError(f"training_config has no {key!r}: {EXCLUDED_TRAINING_KEYS[key]}")
    own = [name for name in _fields(Training) if name not in EXCLUDED_TRAINING_KEYS]
    choices = {"batch_assignment": BATCH_ASSIGNMENTS, "scaling_rule": SCALING_RULES}
    known = (*own, "learning_rate", "members", "prediction_aggregation", *choices)
    _require_known("training_config", config, known)
    parameters = {"optimizer": "adamw"} | {key: config[key] for key in own if key in config}
    default = LEARNING_RATES.get(str(parameters["optimizer"]), 0.05)
    parameters["lr"] = _number("training_config", config, "learning_rate", default)
    return {
        "training": TRAINING.build({"name": "training", **_kebab(parameters)}),
        "members": whole("training_config['members']", config.get("members", 1), 1),
        "predictor": EnsemblePredictor(
            _built(VOTES, config.get("prediction_aggregation", "soft-vote"))
        ),
        **{key: _choice(config, key, values) for key, values in choices.items()},
    }


def _choice(config: Config, key: str, values: tuple[str, ...]) -> str:
    """Return a key's value in a training configuration; the first of its values if not given."""
    value = config.get(key, values[0])
    if value == "replicate" and key == "batch_assignment":
        raise ConfigError(
            "training_config['batch_assignment'] 'replicate' would train every worker on all data, "
            "which this system does not do: for an ensemble of different models set 'members'"
        )
    if not isinstance(value, str) or value not in values:
        raise UnknownNameError(f"training_config[{key!r}]", str(value), values)
    return value


def _built(registry: Registry[Any], value: Any) -> Any:
    """Return a part that is given as itself, by its name, or by a table with its parameters.

    Raises ``ConfigError`` for anything else.
    """
    if isinstance(value, registry.base):
        return value
    if isinstance(value, str | Mapping):
        return registry.build(_kebab(value))
    raise ConfigError(f"a {registry.kind} is one, its name or a table, found {value!r}")


def _kebab(value: Any) -> Any:
    """Return a table with ``-`` for ``_`` in its keys, also inside; other values are unchanged."""
    if isinstance(value, Mapping):
        return {str(key).replace("_", "-"): _kebab(entry) for key, entry in value.items()}
    return [_kebab(entry) for entry in value] if isinstance(value, list | tuple) else value


def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _number(name: str, config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name}[{key!r}] must be a number, found {value!r}")
    return float(value)


def _require_known(name: str, config: Config, known: tuple[str, ...]) -> None:
    for key in config:
        if key not in known:
            raise UnknownNameError(f"key of {name}", str(key), known)
