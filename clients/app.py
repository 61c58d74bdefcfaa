"""From a ``Task`` to a Flower ``ClientApp``."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from hqde_fl.clients.ensemble import EnsembleClient
from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.clients.mods.downlink import DownlinkMod
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.prediction import EnsemblePredictor


def ensemble_app(
    task: Task,
    *,
    members: int = 1,
    training: Training | None = None,
    seed: int = 0,
    bagging: bool = False,
    predictor: EnsemblePredictor | None = None,
    mods: Sequence[Mod] = (),
) -> ClientApp:
    """A ``ClientApp`` that trains, evaluates and says which partition it holds.

    It answers ``train`` with the full weights, or packed if the server asks for that (see
    ``CodecMod``), ``evaluate`` with metrics and ``query.identity`` with the partition id, and works
    under any Flower strategy.

    Parameters
    ----------
    task : Task
        What is learnt.
    members : int, default=1
        Members of the ensemble.
    training : Training, optional
        How a client trains.
    seed : int, default=0
        The run's seed.
    bagging : bool, default=False
        Whether each member learns from a bootstrap sample of a partition.
    predictor : EnsemblePredictor, optional
        How several members predict together when they are evaluated.
    mods : Sequence[Mod], default=()
        Flower mods around every message, the first is outermost; outside of them
        all, models are unpacked and replies packed.
    """
    client = EnsembleClient(
        task,
        members=members,
        training=training,
        seed=seed,
        bagging=bagging,
        predictor=predictor,
    )
    app = ClientApp(mods=[DownlinkMod(), CodecMod(seed=seed), *mods])
    app.train()(client.train)
    app.evaluate()(client.evaluate)
    app.query("identity")(client.identity)
    return app
