"""The settings of an ``HQDESystem``, built from HQDE's configuration dictionaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Self

import torch

from hqde_fl.clients.training import Training
from hqde_fl.codec import CODECS, AdaptiveQuantizer, Codec
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.noise import ExplorationNoise
from hqde_fl.prediction import VOTES, EnsemblePredictor
from hqde_fl.registry import Registry
from hqde_fl.rules import RULES, Aggregator, Superposition
from hqde_fl.strategies.exploration import ExploringOptimizer
from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS, SGD, ServerOptimizer

Config = Mapping[str, Any]

LEARNING_RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05}
"""Default learning rate of each optimiser."""

TRAINING: Registry[Training] = Registry("training", Training, {"training": Training})

EXCLUDED_TRAINING_KEYS = {
    "batch_size": "the loader says it",
    "epochs": "train(loader, num_epochs) says it",
    "lr": "HQDE's name for it is 'learning_rate'",
    "loss_fn": "create_hqde_system(..., loss_fn=...) takes it",
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
        Settings of a worker's training; the batch size is replaced by the loader's.
    members : int
        Number of models in the ensemble, >= 1.
    predictor : EnsemblePredictor
        Combines the members' predictions.
    """

    codec: Codec = field(default_factory=AdaptiveQuantizer)
    rule: Aggregator = field(default_factory=Superposition)
    server_optimizer: ServerOptimizer = field(default_factory=SGD)
    training: Training = field(
        default_factory=lambda: Training(optimizer="adamw", lr=LEARNING_RATES["adamw"])
    )
    members: int = 1
    predictor: EnsemblePredictor = field(default_factory=EnsemblePredictor)

    @classmethod
    def of(
        cls,
        quantization: Config | Codec | None,
        aggregation: Config | None,
        training: Config | None,
        seed: int = 0,
    ) -> Self:
        """Build the settings from three configurations, see ``create_hqde_system``.

        Raises
        ------
        ConfigError
            For an unknown key or an impossible value.
        """
        return cls(
            codec=_codec(quantization),
            **_aggregation(table("aggregation_config", aggregation), seed),
            **_training(table("training_config", training)),
        )


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


def _aggregation(config: dict[str, Any], seed: int) -> dict[str, Any]:
    known = ("rule", "server_optimizer", "noise_scale", "exploration_factor")
    _require_known("aggregation_config", config, known)
    optimizer = _built(SERVER_OPTIMIZERS, config.get("server_optimizer", SGD()))
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
    return {"rule": rule, "server_optimizer": optimizer}


def _training(config: dict[str, Any]) -> dict[str, Any]:
    for key in EXCLUDED_TRAINING_KEYS:
        if key in config:
            raise ConfigError(f"training_config has no {key!r}: {EXCLUDED_TRAINING_KEYS[key]}")
    own = [name for name in _fields(Training) if name not in EXCLUDED_TRAINING_KEYS]
    known = (*own, "learning_rate", "members", "prediction_aggregation")
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
    }


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
