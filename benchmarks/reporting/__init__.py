"""The end of every benchmark: a description of the machine, checks of figures, a JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Return a description of the hardware and software, without the machine's name.

    ``torch-threads`` is the present setting of this process.
    """
    # Imported here because engine.py measures the start-up of its process, imports included.
    from importlib.metadata import version

    import psutil
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "memory-gib": round(psutil.virtual_memory().total / 2**30),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch", "flwr", "ray")},
        "torch-threads": torch.get_num_threads(),
    }


def check(
    claim: str, value: float, bound: float, *, upper: bool = False, strict: bool = False
) -> dict[str, Any]:
    """Return a figure with its bound and the verdict on it, as a table row.

    Parameters
    ----------
    claim : str
        Description of the figure.
    value : float
        The figure.
    bound : float
        Smallest allowed value, or the largest with ``upper``.
    upper : bool, default=False
        Treat the bound as an upper bound.
    strict : bool, default=False
        Fail a figure that equals the bound.
    """
    holds = value <= bound if upper else value >= bound
    return {
        "claim": claim,
        "value": value,
        "bound": bound,
        "most": upper,
        "strict": strict,
        "holds": bool(holds and not (strict and value == bound)),
    }


def write_between_marks(page: Path, bodies: Mapping[str, str]) -> None:
    """Replace parts of a page, each between ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    Parameters
    ----------
    page : Path
        The page, which has both marks of each part.
    bodies : Mapping[str, str]
        Name of a part -> its new text.
    """
    text = page.read_text()
    for name, body in bodies.items():
        before, rest = text.split(f"<!-- {name} -->")
        after = rest.split(f"<!-- end of {name} -->")[1]
        text = f"{before}<!-- {name} -->\n{body}\n<!-- end of {name} -->{after}"
    page.write_text(text)


def conclude(
    rows: list[dict[str, Any]],
    checks: Iterable[dict[str, Any]],
    path: Path | None,
    about: Mapping[str, Any],
) -> int:
    """Print a line per check, write the JSON file, and return the exit status: 1 if a check fails.

    Parameters
    ----------
    rows : list[dict[str, Any]]
        The measurements.
    checks : Iterable[dict[str, Any]]
        Results of ``check``.
    path : Path, optional
        The JSON file to write.
    about : Mapping[str, Any]
        The result of ``machine``, and further facts about the benchmark.
    """
    results = list(checks)
    print()
    for result in results:
        sign = ("<" if result["most"] else ">") + ("" if result["strict"] else "=")
        verdict = "holds" if result["holds"] else "FAILS"
        print(f"{verdict}  {result['claim']}: {result['value']:.4g} {sign} {result['bound']:.4g}")
    if path:
        report = {"machine": about, "rows": rows, "checks": results}
        path.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(result["holds"] for result in results) else 1
