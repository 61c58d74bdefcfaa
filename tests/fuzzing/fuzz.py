"""Run one target under Atheris: ``python -m tests.fuzzing.fuzz TARGET CORPUS [OPTION ...]``.

The options are libFuzzer's. A finding is a file, and ends the process with another status than 0.
"""

from __future__ import annotations

import logging
import sys
import warnings

import atheris

with atheris.instrument_imports(include=["hqde_fl"]):
    from tests.fuzzing.targets import TARGETS


def main() -> None:
    """Fuzz the target that the command line names."""
    logging.disable()
    warnings.simplefilter("ignore")
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
