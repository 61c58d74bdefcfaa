"""byzfl's rules, if it is installed: ``pip install --no-deps byzfl``, and SciPy."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable

from torch import Tensor


def byzfl_rules(n: int, d: int) -> dict[str, Callable[[Tensor], object]]:
    """Return name -> byzfl's rule for n updates of d numbers; empty if byzfl is not installed.

    Only its numeric modules are imported, as the package itself imports torchvision.
    """
    if "byzfl" not in sys.modules:
        spec = importlib.util.find_spec("byzfl")
        if spec is None or spec.submodule_search_locations is None:
            return {}
        sys.modules["byzfl"] = types.ModuleType("byzfl")
        sys.modules["byzfl"].__path__ = list(spec.submodule_search_locations)
    from byzfl.aggregators import aggregators, preaggregators

    f = n // 5
    rules: dict[str, Callable[[Tensor], object]] = {
        "Mean": aggregators.Average(),
        "Median": aggregators.Median(),
        "TrimmedMean": aggregators.TrMean(f),
        "Meamed": aggregators.Meamed(f),
        "GeometricMedian": aggregators.GeometricMedian(),
        "Krum": aggregators.Krum(f),
        "MultiKrum": aggregators.MultiKrum(f),
        "MoNNA": aggregators.MoNNA(f),
        "CenteredClipping": aggregators.CenteredClipping(L=3, tau=100.0),
        "CAF": aggregators.CAF(f),
    }
    if n * (n - f) * d * 4 < 3e9:  # byzfl copies all n x (n - f) neighbours in full
        mixed, median = preaggregators.NNM(f), aggregators.GeometricMedian()
        rules["NNM + GeometricMedian"] = lambda x: median(mixed(x))
    return rules
