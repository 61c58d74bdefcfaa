"""Publish the global model of each round in a weight store, for predictions while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord

from hqde_fl.protocol.records import from_record
from hqde_fl.strategies.callbacks import Callback, RoundRecord


@dataclass(eq=False)
class PublishModel(Callback):
    """Puts the global model after each round into a weight store of the Ray that the run uses.

    Every process that is connected to that Ray can read it meanwhile::

        weights = DistributedWeightStore.open("hqde-fl").latest("global").weights
        model.load_state_dict(weights)

    The facts stored with a version are the number of its ``round``.

    Parameters
    ----------
    store : str
        Name of the store; it is made if there is none of that name.
    key : str
        The key of the model in it.
    replicas : int
        Number of actors that hold the versions, >= 1.
    versions : int
        The number of latest versions that are kept, >= 0; 0 for all.
    directory : str
        Folder of the store's checkpoints; empty for none.
    keep : bool
        True to leave the store when the run ends, False to end it.
    """

    store: str = "hqde-fl"
    key: str = "global"
    replicas: int = 3
    versions: int = 10
    directory: str = ""
    keep: bool = False

    # Annotated so that a file can name this class: the store's class is imported with Ray only.
    _store: Any = field(default=None, init=False)

    def on_start(self, arrays: ArrayRecord, rounds: int) -> None:
        """Make the store; raise ``RunError`` if this process is not connected to a Ray."""
        from hqde_fl.distributed.store import DistributedWeightStore

        settings: dict[str, Any] = {"replicas": self.replicas, "max_versions": self.versions}
        self._store = DistributedWeightStore(self.store, directory=self.directory, **settings)

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Publish the model after a round."""
        assert self._store is not None
        self._store.put(self.key, from_record(arrays), facts={"round": record.round})

    def on_end(self, arrays: ArrayRecord) -> None:
        """End the store, unless it is kept."""
        self._close()

    def on_stop(self, error: BaseException) -> None:
        """End the store, unless it is kept."""
        self._close()

    def _close(self) -> None:
        if self._store is not None and not self.keep:
            self._store.close()
        self._store = None
