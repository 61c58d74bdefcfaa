"""Examples learn although one client lies; ``make examples`` installs what they need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*_client.py"))


@pytest.mark.examples
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_learns_although_a_client_lies(program: str) -> None:
    paths = [str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, program],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    accuracies = [float(number) for number in re.findall(r"accuracy (\d\.\d+)\n", done.stdout)]
    assert len(accuracies) == 4
    assert accuracies[0] < 0.2
    assert accuracies[-1] > 0.75


def test_there_are_examples() -> None:
    assert PROGRAMS == ["lightning_client.py", "trainer_client.py"]
