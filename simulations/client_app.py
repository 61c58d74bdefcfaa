"""The ClientApp of this Flower App, built for the experiment of the run's config."""

from __future__ import annotations

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.task import Task
from hqde_fl.simulations.experiment.experiment import RUN_CONFIG_KEYS, Experiment, experiment_file
from hqde_fl.simulations.experiment.own_modules import add_folder_of

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this client's data and reply with the result."""
    return _app_of(context)(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on this client's data and reply with the metrics."""
    return _app_of(context)(message, context)


@app.query("identity")
def identity(message: Message, context: Context) -> Message:
    """Reply with the id of the partition that this client holds."""
    return _app_of(context)(message, context)


def build_app(experiment: Experiment, task: Task) -> ClientApp:
    """Return the ClientApp of an experiment whose task has been loaded."""
    parts = experiment.parts
    return ensemble_app(
        task,
        members=parts.ensemble.members,
        training=parts.training,
        seed=experiment.seed,
        bagging=experiment.clients.bagging,
        predictor=parts.predictor,
        mods=parts.client_mods(),
    )


def _app_of(context: Context) -> ClientApp:
    """Return the ClientApp of the experiment in the context's run config."""
    config = context.run_config
    return _cached_app(*(str(config.get(key, "")) for key in RUN_CONFIG_KEYS))


@lru_cache(maxsize=1)
def _cached_app(*values: str) -> ClientApp:
    """Return the ClientApp for the values of ``RUN_CONFIG_KEYS``.

    The last one is kept, so that its data stays loaded in a worker process between messages.
    """
    run_config = dict(zip(RUN_CONFIG_KEYS, values, strict=True))
    if file := experiment_file(run_config):
        add_folder_of(file)
    experiment = Experiment.from_run_config(run_config)
    return build_app(experiment, experiment.load_task())
