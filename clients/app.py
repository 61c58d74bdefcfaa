"""Build a Flower ``ClientApp`` from a ``Task``."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from hqde_fl.clients.cohort import CohortTraining
from hqde_fl.clients.ensemble import EnsembleClient
from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.clients.mods.control_variates import ControlVariatesMod
from hqde_fl.clients.mods.downlink import DownlinkMod
from hqde_fl.clients.mods.entries import HeldEntriesMod, UnchangedEntriesMod
from hqde_fl.clients.mods.local_statistics import LocalStatisticsMod
from hqde_fl.clients.mods.secure_aggregation import SecureAggregationMod, unanswered
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError
from hqde_fl.prediction import EnsemblePredictor
from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.protocol.secure_messages import QUERIES


class EnsembleApp(ClientApp):
    """A ``ClientApp`` that engines may ask to train several clients together.

    Parameters
    ----------
    client : EnsembleClient
        The client.
    mods : Sequence[Mod]
        All mods around it, the outermost first.
    has_mods : bool
        True if some of them change updates, so that clients are called one by one.
    """

    def __init__(self, client: EnsembleClient, mods: Sequence[Mod], has_mods: bool) -> None:
        super().__init__(mods=list(mods))
        self.client, self._has_mods = client, has_mods

    def cohort_training(self, message: Message, context: Context) -> CohortTraining | None:
        """Return the training of the clients that get a message's content.

        None if they must be called one by one.

        Parameters
        ----------
        message : Message
            A message to one of them.
        context : Context
            The context of that client.
        """
        return None if self._has_mods else CohortTraining.of(self.client, message)


def ensemble_app(
    task: Task,
    *,
    members: int = 1,
    training: Training | None = None,
    seed: int = 0,
    bagging: bool = False,
    predictor: EnsemblePredictor | None = None,
    mods: Sequence[Mod] = (),
    secure_aggregation: SecureAggregation | None = None,
) -> EnsembleApp:
    """Build a ``ClientApp`` that trains, evaluates and reports the partition it holds.

    It answers ``train`` with full weights, or with a packed update if the server requests one (see
    ``CodecMod``), ``evaluate`` with metrics, ``query.identity`` with the partition id and
    ``query.examples`` with the number of its examples. It works under any Flower strategy.

    Parameters
    ----------
    task : Task
        The model, data, loss and metrics.
    members : int, default=1
        Number of ensemble members, >= 1.
    training : Training, optional
        Settings of local training; ``Training()`` if not given.
    seed : int, default=0
        The run's seed.
    bagging : bool, default=False
        Train each member on its own bootstrap sample of the partition.
    predictor : EnsemblePredictor, optional
        Combines the members' predictions in evaluation; soft vote if not given.
    mods : Sequence[Mod], default=()
        Flower mods around every message, the outermost first. Models are unpacked and replies
        packed outside of all of them.
    secure_aggregation : SecureAggregation, optional
        Return updates under masks alone; the settings must be the server's.

    Raises
    ------
    ConfigError
        If secure aggregation is asked for with control variates.
    """
    if secure_aggregation is not None and training is not None and training.control_variates:
        raise ConfigError(
            "ensemble_app needs Training.control_variates = False with secure aggregation: control "
            "variates would leave the client without masks"
        )
    client = EnsembleClient(
        task,
        members=members,
        training=training,
        seed=seed,
        bagging=bagging,
        predictor=predictor,
    )
    inner: list[Mod] = [UnchangedEntriesMod(), CodecMod(seed=seed)]
    if secure_aggregation is not None:
        inner.append(SecureAggregationMod(secure_aggregation, seed))
    inner += [LocalStatisticsMod(), *mods]
    outer: list[Mod] = [ControlVariatesMod(), HeldEntriesMod(), DownlinkMod()]
    one_by_one = bool(mods) or secure_aggregation is not None
    app = EnsembleApp(client, [*outer, *inner], has_mods=one_by_one)
    app.train()(client.train)
    app.evaluate()(client.evaluate)
    app.query("identity")(client.identity)
    app.query("examples")(client.examples)
    for action in QUERIES:
        app.query(action)(unanswered)
    return app
