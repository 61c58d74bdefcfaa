"""The ClientApp of this Flower App: ``ensemble_app`` for the experiment in the run's config."""

from __future__ import annotations

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hqde_fl.clients.app import ensemble_app
from hqde_fl.simulations.experiment.model import RUN_CONFIG, Experiment, experiment_file
from hqde_fl.simulations.experiment.own_modules import look_beside

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this client's data."""
    return _inner(context)(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on this client's data."""
    return _inner(context)(message, context)


@app.query("identity")
def identity(message: Message, context: Context) -> Message:
    """Say which partition this client holds."""
    return _inner(context)(message, context)


def _inner(context: Context) -> ClientApp:
    config = context.run_config
    return _built(*(str(config.get(key, "")) for key in RUN_CONFIG))


@lru_cache(maxsize=1)
def _built(*values: str) -> ClientApp:
    """Built once in each worker process: the data stays loaded between messages."""
    run_config = dict(zip(RUN_CONFIG, values, strict=True))
    if file := experiment_file(run_config):
        look_beside(file)
    experiment = Experiment.from_run_config(run_config)
    return ensemble_app(
        experiment.load_task(),
        members=experiment.clients.members,
        training=experiment.training,
        seed=experiment.seed,
        bagging=experiment.clients.bagging,
        predictor=experiment.predictor,
        mods=experiment.client_mods,
    )
