"""Run one target under Atheris: ``python -m tests.fuzzing.fuzz PROGRAM TARGET [ARGUMENT ...]``.

The arguments are libFuzzer's: folders of inputs, and options. To merge folders it starts itself
again by ``PROGRAM``, which must be executable and pass its own arguments on to this module. A
finding is a file, and ends the process with another status than 0.
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
    program, name, *arguments = sys.argv[1:]
    atheris.Setup([program, *arguments], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
