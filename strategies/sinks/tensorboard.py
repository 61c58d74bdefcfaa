"""Write the numbers of each round as a TensorBoard log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hqde_fl.strategies.sinks.sink import Sink


@dataclass(eq=False)
class TensorBoard(Sink):
    """Writes a TensorBoard log; show it with ``tensorboard --logdir runs``.

    Parameters
    ----------
    directory : str, default=""
        The directory of the log; ``tensorboard`` in the run directory if empty, or in the working
        directory without one.
    """

    extra: ClassVar[str] = "tensorboard"
    module: ClassVar[str] = "tensorboard"

    directory: str = ""

    def open(self) -> None:
        """Open the log; a resumed run gets one more file in the same directory."""
        from torch.utils.tensorboard.writer import SummaryWriter

        default = (self.path or Path()) / "tensorboard"
        self.handle = SummaryWriter(self.directory or str(default))
        if self.table:
            text = json.dumps(self.table, indent=1)
            self.handle.add_text("experiment", "    " + text.replace("\n", "\n    "))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append the numbers of a round to the log."""
        for name, value in numbers.items():
            self.handle.add_scalar(name, value, step)
        self.handle.flush()

    def close(self, status: str) -> None:
        """Close the log."""
        if self.handle is not None:
            self.handle.close()
