"""The names of server optimisers and callbacks in a TOML file; nothing is imported for them."""

from __future__ import annotations

from typing import Any

from hqde_fl.registry import Registry

SERVER_OPTIMIZERS: Registry[Any] = Registry(
    "server optimizer",
    "hqde_fl.strategies.optimizers:ServerOptimizer",
    {
        "adam": "hqde_fl.strategies.optimizers:Adam",
        "sgd": "hqde_fl.strategies.optimizers:SGD",
        "yogi": "hqde_fl.strategies.optimizers:Yogi",
    },
    group="hqde_fl.server_optimizers",
)

CALLBACKS: Registry[Any] = Registry(
    "callback",
    "hqde_fl.strategies.callbacks:Callback",
    {
        "mlflow": "hqde_fl.strategies.sinks.mlflow:MLflow",
        "publish-model": "hqde_fl.strategies.publish_model:PublishModel",
        "tensorboard": "hqde_fl.strategies.sinks.tensorboard:TensorBoard",
        "wandb": "hqde_fl.strategies.sinks.wandb:WandB",
    },
    group="hqde_fl.callbacks",
    frozen=False,
)
