"""Write the published vectors: ``vectors/SUBJECT.safetensors`` and ``vectors/index.json``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.conformance.cases import Case
from tests.conformance.comparison import result_of
from tests.conformance.equations import is_unique
from tests.conformance.subjects import SUBJECTS, Subject

FOLDER = Path(__file__).with_name("vectors")
CASES = 200
PARAMETERS = {
    "centered-clipping": "tau = parameter x the largest magnitude of the rows; 3 steps from zero",
    "clipping": "c = parameter x the largest magnitude of the rows",
    "ipm": "epsilon",
    "alie": "z",
}


def bounds(subject: Subject, case: Case) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the least and greatest values that the paper admits; None if it admits one result."""
    wide = case.normalised()
    if subject.criterion is not None:  # the median of an even number of collinear points is open
        if np.linalg.matrix_rank(wide.rows - wide.rows[0], tol=1e-9) > 1:
            return None
        parts = [[(wide.rows.min(axis=0), wide.rows.max(axis=0))]]
    else:
        parts = subject.equation(wide)
        first = subject.name.split("+")[0]
        if first != subject.name and not is_unique(SUBJECTS[first].equation, wide):
            parts = [[(wide.rows.min(axis=0), wide.rows.max(axis=0))]]
        elif is_unique(subject.equation, wide):
            return None
    low = [np.min([box[0] for box in boxes], axis=0) for boxes in parts]
    high = [np.max([box[1] for box in boxes], axis=0) for boxes in parts]
    return np.concatenate(low) * case.unit, np.concatenate(high) * case.unit


def write(subject: Subject, count: int = CASES) -> None:
    """Write a subject's first cases, with our results."""
    rows: dict[str, list[np.ndarray]] = {"float32": [], "float64": []}
    expected, low, high, shapes, parameters = [], [], [], [], []
    for index in range(count):
        case = subject.case(index)
        result = result_of(subject.ours, case)
        assert result is not None, (subject.name, index)
        span = bounds(subject, case)
        rows[case.rows.dtype.name].append(case.rows.ravel())
        expected.append(result.ravel() * case.unit)
        if span is not None:
            low.append(span[0])
            high.append(span[1])
        width = 64 if case.rows.dtype == np.float64 else 32
        shapes.append((*case.rows.shape, case.f, width, span is None))
        parameters.append(case.parameter)
    tensors = {
        "rows32": np.concatenate(rows["float32"]),
        "rows64": np.concatenate(rows["float64"]),
        "expected": np.concatenate(expected),
        "low": np.concatenate(low) if low else np.zeros(0),
        "high": np.concatenate(high) if high else np.zeros(0),
        "shapes": np.array(shapes, dtype=np.int32),
        "parameters": np.array(parameters),
    }
    FOLDER.mkdir(exist_ok=True)
    save_file(tensors, FOLDER / f"{subject.name}.safetensors")


def write_all() -> None:
    """Write the vectors of all subjects, and the index."""
    index = {}
    for name, subject in SUBJECTS.items():
        write(subject)
        tolerance = 1e-3 if subject.criterion is not None else 1e-5
        index[name] = {
            "file": f"{name}.safetensors",
            "source": subject.citation,
            "tolerance": tolerance,
            "parameter": PARAMETERS.get(name.split("+")[0], ""),
        }
    (FOLDER / "index.json").write_text(json.dumps(index, indent=1) + "\n")
