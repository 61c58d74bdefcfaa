"""Send the numbers of each round to Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal
from uuid import uuid4

from hqde_fl.strategies.sinks.sink import Sink

Mode = Literal["", "online", "offline", "disabled"]

LOGIN_SECONDS = 30
"""Time to enter a key in a terminal; without a terminal, a missing key is an error at once."""


@dataclass(eq=False)
class WandB(Sink):
    """Sends metrics and the experiment to Weights & Biases.

    Parameters
    ----------
    project : str, default="hqde-fl"
        The project that the run is a part of.
    entity : str, default=""
        The user or team that owns it; your default one if empty.
    mode : str, default=""
        ``online``, ``disabled``, or ``offline``: files in the run directory for ``wandb sync``. If
        empty, the environment variable ``WANDB_MODE`` decides.
    """

    extra: ClassVar[str] = "wandb"
    module: ClassVar[str] = "wandb"

    project: str = "hqde-fl"
    entity: str = ""
    mode: Mode = ""

    def open(self) -> None:
        """Begin a run of Weights & Biases; a resumed run goes on with the one it had."""
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            login_timeout=LOGIN_SECONDS,
            mode=self.mode or None,
            reinit="create_new",
        )
        self.handle = wandb.init(
            project=self.project,
            entity=self.entity or None,
            name=self.path.name if self.path else None,
            dir=self.path,
            id=self.stored_id(lambda: uuid4().hex[:8]),
            resume="allow",
            config=dict(self.table),
            settings=settings,
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send the numbers of a round."""
        self.handle.log(dict(numbers), step=step)

    def close(self, status: str) -> None:
        """End the run."""
        if self.handle is not None:
            self.handle.finish(exit_code=0 if status == "finished" else 1)
