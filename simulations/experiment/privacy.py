"""The ``[privacy]`` of an experiment: central differential privacy, by the server."""

from __future__ import annotations

from typing import Any

from hqde_fl.catalogue import NOISE_SOURCES
from hqde_fl.errors import ConfigError
from hqde_fl.privacy.central import AdaptiveClipping, CentralDP
from hqde_fl.registry import Registry
from hqde_fl.simulations.experiment.components import build_component
from hqde_fl.simulations.experiment.errors import parameters_of
from hqde_fl.simulations.experiment.sections import PrivacySection

ADAPTIVE = Registry("adaptive clipping", AdaptiveClipping, {"quantile": AdaptiveClipping})


def central_privacy(section: PrivacySection) -> CentralDP | None:
    """Return the differential privacy that a section configures; None if it is off.

    Raises
    ------
    ConfigError
        If a value is out of its bounds, or keys are set that do nothing.
    """
    multiplier, target = section.noise_multiplier, section.target_epsilon
    found = f"found noise-multiplier = {multiplier:g} and target-epsilon = {target:g}"
    if not multiplier and not target:
        for name in PrivacySection.model_fields:
            if getattr(section, name) != getattr(PrivacySection(), name):
                raise ConfigError(
                    f"privacy.{name.replace('_', '-')} needs privacy.noise-multiplier > 0 or "
                    f"privacy.target-epsilon > 0, {found}"
                )
        return None
    if multiplier > 0 and target > 0:
        raise ConfigError(
            "privacy.noise-multiplier and privacy.target-epsilon exclude each other: the second "
            f"one calibrates the first, {found}"
        )
    if section.max_epsilon and target:
        raise ConfigError(
            "privacy.max-epsilon goes with privacy.noise-multiplier: privacy.target-epsilon is a "
            f"limit itself, found {section.max_epsilon:g} and target-epsilon = {target:g}"
        )
    noise = build_component(NOISE_SOURCES, section.noise, "privacy.noise")
    adaptive = None
    if section.adaptive_clipping:
        table: dict[str, Any] = {"name": "quantile", **section.adaptive_clipping}
        with parameters_of("privacy.adaptive-clipping"):
            adaptive = build_component(ADAPTIVE, table, "privacy.adaptive-clipping")
    with parameters_of("privacy"):
        return CentralDP(
            multiplier,
            target,
            section.max_epsilon,
            section.delta,
            section.clipping_norm,
            adaptive,
            section.accountant,
            noise,
        )
