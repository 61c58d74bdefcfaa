"""Who trains this round; ``SELECTORS`` names the ways for TOML files and the CLI."""

from hqde_fl.registry import Registry
from hqde_fl.selection.base import Selector
from hqde_fl.selection.ensemble import Ensemble
from hqde_fl.selection.uniform import Uniform

SELECTORS: Registry[Selector] = Registry(
    "selector",
    Selector,  # type: ignore[type-abstract]
    {"uniform": Uniform},
)

__all__ = ["SELECTORS", "Ensemble", "Selector", "Uniform"]
