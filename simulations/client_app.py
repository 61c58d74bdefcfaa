"""The ClientApp of this Flower App, built for the experiment of the run's config."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, final

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hqde_fl.clients.app import EnsembleApp, ensemble_app
from hqde_fl.clients.cohort import CohortTraining
from hqde_fl.clients.task import Task
from hqde_fl.given_objects import given_objects
from hqde_fl.own_modules import searched_first
from hqde_fl.protocol.node_numbers import numbered
from hqde_fl.protocol.secure_messages import QUERIES
from hqde_fl.simulations.checkpoint.node_states import kept_on_disk
from hqde_fl.simulations.edges.edge_home import EDGE_HOME
from hqde_fl.simulations.engines.torch_settings import TorchSettings
from hqde_fl.simulations.experiment.client_privacy import with_trainings
from hqde_fl.simulations.experiment.experiment import RUN_CONFIG_KEYS, Experiment, experiment_file
from hqde_fl.simulations.experiment.object_transfer import require_picklable
from hqde_fl.simulations.experiment.own_modules import add_folder_of


class ExperimentApp(ClientApp):
    """A ``ClientApp`` that is that of the experiment in a context's run config."""

    def cohort_training(self, message: Message, context: Context) -> CohortTraining | None:
        """Return the training of the clients that get a message's content; see ``EnsembleApp``."""
        own = _app_of(context)
        return own.cohort_training(message, context) if isinstance(own, EnsembleApp) else None


app = ExperimentApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this client's data and reply with the result."""
    return _reply(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on this client's data and reply with the metrics."""
    return _reply(message, context)


@app.query("identity")
def identity(message: Message, context: Context) -> Message:
    """Reply with the id of the partition that this client holds."""
    return _reply(message, context)


@app.query("examples")
def examples(message: Message, context: Context) -> Message:
    """Reply with the number of examples of this client."""
    return _reply(message, context)


def _secure_query(message: Message, context: Context) -> Message:
    """Reply to a step of secure aggregation."""
    return _reply(message, context)


for action in QUERIES:
    app.query(action)(_secure_query)


def build_app(experiment: Experiment, task: Task) -> EnsembleApp:
    """Return the ClientApp of an experiment whose task has been loaded."""
    parts = experiment.parts
    trainings = experiment.client_rounds * parts.ensemble.trained_members
    return ensemble_app(
        task,
        members=parts.ensemble.members,
        training=with_trainings(parts.training, trainings),
        seed=experiment.seed,
        bagging=experiment.clients.bagging,
        predictor=parts.predictor,
        mods=parts.client_mods(),
        secure_aggregation=parts.aggregation.secure_aggregation,
    )


def app_for_workers(experiment: Experiment) -> ClientApp:
    """Return the ClientApp that worker processes get for an experiment, which they unpickle.

    It is ``app``, which reads the run's config, unless a program gave objects to the experiment.

    Raises
    ------
    ConfigError
        If one of the objects cannot be pickled.
    """
    return AppWithObjects(experiment) if experiment.objects else app


@final
class AppWithObjects(ClientApp):
    """The ClientApp of an experiment with objects that a program gave to it.

    It takes the experiment and its objects along when it is pickled, and is built in the process
    that unpickles it, where the data is loaded once.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        require_picklable(experiment.objects)
        self._config, self._objects = experiment.to_json(), dict(experiment.objects)
        self._folder = experiment.folder
        self._app: EnsembleApp | None = None

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the reply of the experiment's ClientApp."""
        return self._built()(message, context)

    def cohort_training(self, message: Message, context: Context) -> CohortTraining | None:
        """Return the training of the clients that get a message's content; see ``EnsembleApp``."""
        return self._built().cohort_training(message, context)

    def _built(self) -> EnsembleApp:
        """Return the experiment's ClientApp."""
        if self._app is None:
            with given_objects(self._objects), searched_first(self._folder):
                experiment = Experiment.from_json(self._config)
            self._app = build_app(experiment, experiment.load_task())
        return self._app


def _reply(message: Message, context: Context) -> Message:
    """Return the reply of the experiment's ClientApp, as the partition that the server names.

    In a resumed run, a client that lost its state gets it from the node's own files.
    """
    with numbered(message, context), kept_on_disk(message, context):
        return _app_of(context)(message, context)


def _app_of(context: Context) -> ClientApp:
    """Return the ClientApp of the experiment in the context's run config."""
    config = context.run_config
    if EDGE_HOME in context.node_config:
        from hqde_fl.simulations.edges.edge_app import edge_app  # workers need nothing of it

        return edge_app(_experiment(config))
    values = (str(config.get(key, "")) for key in RUN_CONFIG_KEYS)
    count = context.node_config.get("num-partitions")
    return _cached_app(TorchSettings.current(), count if isinstance(count, int) else 0, *values)


@lru_cache(maxsize=1)
def _cached_app(settings: TorchSettings, count: int, *values: str) -> ClientApp:
    """Return the ClientApp for the values of ``RUN_CONFIG_KEYS``, under torch's settings now.

    ``count`` is the number of partitions, if it is that of the nodes and not in the experiment.

    The last one is kept, so that its data stays loaded in a worker process between messages.
    """
    experiment = _experiment(dict(zip(RUN_CONFIG_KEYS, values, strict=True)))
    registered = experiment.clients.registered and count > 0
    return build_app(experiment, experiment.load_task(count if registered else None))


def _experiment(run_config: Mapping[str, Any]) -> Experiment:
    """Return the experiment of a run's config."""
    if file := experiment_file(run_config):
        add_folder_of(file)
    return Experiment.from_run_config(run_config)
