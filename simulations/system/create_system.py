"""Creation of an ``HQDESystem`` from HQDE's configuration dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from hqde_fl.codec import Codec
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.system.hqde_system import HQDESystem
from hqde_fl.simulations.system.settings import Config, Settings, table, whole


def create_hqde_system(
    model_class: Callable[..., nn.Module],
    model_kwargs: Mapping[str, Any] | None = None,
    num_workers: int = 4,
    quantization_config: Config | Codec | None = None,
    aggregation_config: Config | None = None,
    training_config: Config | None = None,
    *,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    class_axis: int | None = None,
    ignore_index: int | None = None,
    seed: int = 0,
    engine: str = "auto",
    show_progress: bool = True,
) -> HQDESystem:
    """Create an ``HQDESystem`` from HQDE's configuration dictionaries.

    Parameters
    ----------
    model_class : Callable[..., nn.Module]
        A module class, or any callable that returns a module.
    model_kwargs : Mapping[str, Any], optional
        Keyword arguments of ``model_class``.
    num_workers : int, default=4
        Number of workers that share the data, >= 1.
    quantization_config : Mapping or Codec, optional
        Codec of the workers' updates: ``base_bits`` (8), ``min_bits`` (4), ``max_bits`` (16),
        ``allocation`` and ``block`` of ``AdaptiveQuantizer``; or the ``name`` of another codec and
        its parameters, ``{"name": "identity"}`` for full weights; or a codec.
    aggregation_config : Mapping, optional
        ``rule`` (``"superposition"``): a rule, its name, or a table with its name and parameters;
        ``server_optimizer`` likewise, by default ``"sgd"`` with momentum 1 - 1/sqrt(num_workers)
        if the workers use AdamW, else without; ``noise_scale`` (0): scale of exploration noise
        relative to the update; ``exploration_factor`` (0.1): decay of that noise per epoch;
        ``privacy``: a ``CentralDP``, or its parameters, that protects each worker's data: it needs
        the rule ``"mean"``, and its ``target_epsilon`` is for the epochs of the first ``train``.
    training_config : Mapping, optional
        ``optimizer`` (``"adamw"``, ``"adam"``, ``"sgd"``), ``learning_rate`` (1e-3, SGD: 0.05),
        ``momentum``, ``weight_decay``, ``proximal_mu``, ``threads``, ``device``;
        ``members`` (1): number of models in the ensemble; ``prediction_aggregation``
        (``"soft-vote"``): the vote that combines their predictions;
        ``batch_assignment`` (``"split"``): each worker takes 1/num_workers of every batch and as
        many steps an epoch as the loader has batches, or ``"whole"``: batches of the loader's size
        and num_workers times fewer steps; ``scaling_rule`` (``"auto"``): scale the learning rate to
        the number of steps and set the server's momentum, or ``"none"``: leave both as given.
    loss_fn : Callable, optional
        (outputs, targets) -> mean loss. Without it, and with torch's cross entropy, the models are
        classifiers: they return scores (examples, classes, ...) or (examples, ..., classes), and
        the targets are classes (examples, ...).
    class_axis : int, optional
        The axis of the outputs that has the class scores, not 0; by default 1 or the last one,
        whichever fits the targets, and 1 if both do.
    ignore_index : int, optional
        The class in the targets that does not count; by default that of ``nn.CrossEntropyLoss``.
    seed : int, default=0
        Seed of all random numbers, >= 0.
    engine : {"auto", "ray", "inline"}, default="auto"
        ``ray`` runs the workers in processes on Ray, ``inline`` in this process; ``auto`` uses Ray
        if it is installed.
    show_progress : bool, default=True
        Print a line per epoch.

    Raises
    ------
    ConfigError
        For an unknown key or an impossible value, before anything is started.
    """
    if isinstance(model_class, nn.Module) or not callable(model_class):
        raise ConfigError(
            "model_class needs to be a class or a function that builds a module, "
            f"found {type(model_class).__name__} {' '.join(repr(model_class).split())[:60]}"
        )
    num_workers = whole("num_workers", num_workers, 1)
    return HQDESystem(
        partial(model_class, **table("model_kwargs", model_kwargs)),
        num_workers,
        Settings.of(quantization_config, aggregation_config, training_config, seed, num_workers),
        loss_fn=loss_fn,
        class_axis=class_axis,
        ignore_index=ignore_index,
        seed=seed,
        engine=engine,
        show_progress=show_progress,
    )
