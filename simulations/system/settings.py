"""HQDE's configuration dictionaries, and what they stand for here."""

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
from hqde_fl.strategies.exploration import Exploring
from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS, SGD, ServerOptimizer

Config = Mapping[str, Any]

LEARNING_RATES = {"adamw": 1e-3, "sgd": 0.05}
"""An optimiser's learning rate where none is given."""

TRAINING: Registry[Training] = Registry("training", Training, {"training": Training})

SAID_ELSEWHERE = {
    "batch_size": "the loader says it",
    "epochs": "train(loader, num_epochs) says it",
    "lr": "HQDE's name for it is 'learning_rate'",
    "loss_fn": "create_hqde_system(..., loss_fn=...) takes it",
}
"""What a training configuration does not hold, and why not."""


@dataclass(frozen=True)
class Settings:
    """How a system trains, merges and predicts.

    Parameters
    ----------
    codec : Codec
        How workers pack their updates.
    rule : Aggregator
        How the updates are merged.
    server_optimizer : ServerOptimizer
        How the merged update moves the model.
    training : Training
        How a worker trains; its batch size is the loader's.
    members : int
        Models in the ensemble.
    predictor : EnsemblePredictor
        How they predict together.
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
        """What three configurations say; see ``create_hqde_system`` for their keys.

        Raises
        ------
        ConfigError
            For a key that does not exist, and a value that cannot be.
        """
        return cls(
            codec=_codec(quantization),
            **_aggregation(table("aggregation_config", aggregation), seed),
            **_training(table("training_config", training)),
        )


def whole(name: str, value: Any, least: int) -> int:
    """The value of a parameter, once it is a whole number that is large enough."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ConfigError(f"{name} must be a whole number >= {least}, found {value!r}")
    return int(value)


def table(name: str, config: Any) -> dict[str, Any]:
    """A configuration as a dictionary of its own; none is an empty one."""
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
    found = table("quantization_config", config)
    if "name" not in found:
        _require_known("quantization_config", found, _fields(AdaptiveQuantizer))
        found["name"] = "adaptive-quantizer"
    return CODECS.build(_kebab(found))


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
        optimizer = Exploring(ExplorationNoise(scale, decay=decay), optimizer, seed)
    rule = _built(RULES, config.get("rule", Superposition()))
    if rule.feeds:
        raise ConfigError(f"aggregation_config['rule'] {rule} feeds a rule: put both into a chain")
    return {"rule": rule, "server_optimizer": optimizer}


def _training(config: dict[str, Any]) -> dict[str, Any]:
    for key in SAID_ELSEWHERE:
        if key in config:
            raise ConfigError(f"training_config has no {key!r}: {SAID_ELSEWHERE[key]}")
    own = [name for name in _fields(Training) if name not in SAID_ELSEWHERE]
    known = (*own, "learning_rate", "members", "prediction_aggregation")
    _require_known("training_config", config, known)
    found = {"optimizer": "adamw"} | {key: config[key] for key in own if key in config}
    usual = LEARNING_RATES.get(str(found["optimizer"]), 0.05)
    found["lr"] = _number("training_config", config, "learning_rate", usual)
    return {
        "training": TRAINING.build({"name": "training", **_kebab(found)}),
        "members": whole("training_config['members']", config.get("members", 1), 1),
        "predictor": EnsemblePredictor(
            _built(VOTES, config.get("prediction_aggregation", "soft-vote"))
        ),
    }


def _built(registry: Registry[Any], value: Any) -> Any:
    """A thing itself, its name, or the table that describes it."""
    if isinstance(value, registry.base):
        return value
    if isinstance(value, str | Mapping):
        return registry.build(_kebab(value))
    raise ConfigError(f"a {registry.kind} is one, its name or a table, found {value!r}")


def _kebab(value: Any) -> Any:
    """A table with its keys as TOML files have them."""
    if isinstance(value, Mapping):
        return {str(key).replace("_", "-"): _kebab(each) for key, each in value.items()}
    return [_kebab(each) for each in value] if isinstance(value, list | tuple) else value


def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in dataclasses.fields(kind))


def _number(where: str, config: Config, key: str, usual: float) -> float:
    value = config.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}[{key!r}] must be a number, found {value!r}")
    return float(value)


def _require_known(where: str, config: Config, known: tuple[str, ...]) -> None:
    for key in config:
        if key not in known:
            raise UnknownNameError(f"key of {where}", str(key), known)
