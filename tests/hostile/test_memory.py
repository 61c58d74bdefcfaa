"""The memory that each row of the catalogue takes, measured in a process of its own.

A process that has run other tests has a heap of their making, in which growth says little.
"""

from __future__ import annotations

from hqde_fl.simulations.audit import HOSTILE
from hqde_fl.simulations.audit.audit import audit


def greedy(names: list[str]) -> list[str]:
    """The rows that raised memory beyond their bound."""
    subject = audit("fedavg", [HOSTILE[name] for name in names])
    assert set(subject.findings) == set(names)
    return [name for name, finding in subject.findings.items() if not finding.frugal]


def test_no_row_raises_memory_beyond_its_bound() -> None:
    """The kernel's figure may be off by a huge page or two: what is beyond is measured again."""
    found = greedy(list(HOSTILE))
    assert not found or greedy(found) == []
