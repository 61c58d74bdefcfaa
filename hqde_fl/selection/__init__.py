"""Selection of a round's clients; ``SELECTORS`` holds the name of each selector in TOML files."""

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
