"""The cases of ``benchmarks/claims.py`` as tasks of experiments."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.data import TensorDataset

from benchmarks.claim_parts.cases import examples, new_model
from hqde_fl.clients.task import Task


def task(case: str, **_: Any) -> Task:
    """Return the task of a case."""
    return Task(
        model=partial(new_model, case),
        partition=lambda client, _: TensorDataset(*examples(case, client)),
        test=lambda: TensorDataset(*examples(case, -1)),
    )
