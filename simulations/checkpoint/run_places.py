"""A Grid that tells nodes where each training stands in the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import final

from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.clients.message_fields import is_training, server_round
from hqde_fl.protocol.run_place import RunPlace
from hqde_fl.protocol.wrapped_grid import WrappedGrid, contents_restored
from hqde_fl.simulations.experiment.sections import CheckpointSection
from hqde_fl.simulations.recording.manifest import read_manifest


@final
class RunPlaces(WrappedGrid):
    """A Grid whose nodes keep their clients' states themselves.

    Parameters
    ----------
    grid : Grid
        The Grid that reaches the nodes.
    directory : Path
        The run directory, whose manifest names the run and tells how often it was resumed. It is
        read when the first messages are sent.
    checkpoint : CheckpointSection
        How often checkpoints are written, and how many are kept.
    """

    def __init__(self, grid: Grid, directory: Path, checkpoint: CheckpointSection) -> None:
        super().__init__(grid)
        self._directory, self._checkpoint = directory, checkpoint
        self._run: tuple[str, tuple[int, ...]] | None = None

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages, those of a training with their place in the run; return the replies."""
        sent = list(messages)
        with contents_restored(sent):
            for message in sent:
                if is_training(message):
                    message.content = self._place(server_round(message)).added_to(message.content)
            return iter(self._grid.send_and_receive(sent, timeout=timeout))

    def _place(self, number: int) -> RunPlace:
        if self._run is None:
            manifest = read_manifest(self._directory)
            resumed = tuple(int(one.get("round") or 0) for one in manifest.get("resumed", ()))
            facts = [manifest["name"], manifest["started"], str(self._directory.resolve())]
            self._run = sha256("\n".join(facts).encode()).hexdigest()[:32], resumed
        # one more than are kept: the last one may not have been written yet
        every, keep = self._checkpoint.every, self._checkpoint.keep
        oldest = max(0, number - 1 - every * (keep + 1)) if keep else 0
        return RunPlace(*self._run, number, oldest)
