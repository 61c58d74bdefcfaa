"""How every benchmark ends: on what machine it ran, which checks hold, the JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What it runs on, in words that name no machine; ``torch-threads`` as they are set now."""
    # Imported here: engine.py counts imports to the start-up of what it measures in its process.
    from importlib.metadata import version

    import psutil
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    mine = hasattr(os, "sched_getaffinity")
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if mine else os.cpu_count(),
        "memory-gib": round(psutil.virtual_memory().total / 2**30),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch", "flwr", "ray")},
        "torch-threads": torch.get_num_threads(),
    }


def check(
    claim: str, value: float, bound: float, *, most: bool = False, strict: bool = False
) -> dict[str, Any]:
    """A figure and whether it keeps its bound.

    Parameters
    ----------
    claim : str
        What the figure is.
    value : float
        The figure.
    bound : float
        The least it may be.
    most : bool
        The bound is the most it may be.
    strict : bool
        A figure that equals the bound fails.
    """
    holds = value <= bound if most else value >= bound
    return {
        "claim": claim,
        "value": value,
        "bound": bound,
        "most": most,
        "strict": strict,
        "holds": bool(holds and not (strict and value == bound)),
    }


def conclude(
    rows: list[dict[str, Any]],
    checks: Iterable[dict[str, Any]],
    path: Path | None,
    about: Mapping[str, Any],
) -> int:
    """Print a line for each check and write the JSON file; the exit status, 1 if a check fails.

    Parameters
    ----------
    rows : list[dict[str, Any]]
        What was measured.
    checks : Iterable[dict[str, Any]]
        As ``check`` returns them.
    path : Path, optional
        Where to write the JSON file.
    about : Mapping[str, Any]
        As ``machine`` returns it, and what else the benchmark has to say.
    """
    found = list(checks)
    print()
    for each in found:
        sign = ("<" if each["most"] else ">") + ("" if each["strict"] else "=")
        verdict = "holds" if each["holds"] else "FAILS"
        print(f"{verdict}  {each['claim']}: {each['value']:.4g} {sign} {each['bound']:.4g}")
    if path:
        report = {"machine": about, "rows": rows, "checks": found}
        path.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(each["holds"] for each in found) else 1
