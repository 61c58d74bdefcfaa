"""The ClientApp of a generated Flower App.

Flower pickles a ClientApp for Ray's workers. Its functions are defined here, so that unpickling
imports this package first, which sets the import path, and only then hqde-fl.
"""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hqde_fl.protocol.secure_messages import QUERIES
from hqde_fl.simulations import client_app
from hqde_fl.simulations.engines.deployment.site_calls import observed_call

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return hqde-fl's reply to a training message."""
    with observed_call(message, context):
        return client_app.app(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Return hqde-fl's reply to an evaluation message."""
    with observed_call(message, context):
        return client_app.app(message, context)


@app.query("identity")
def identity(message: Message, context: Context) -> Message:
    """Return hqde-fl's reply to the question for the partition id."""
    with observed_call(message, context):
        return client_app.app(message, context)


@app.query("examples")
def examples(message: Message, context: Context) -> Message:
    """Return hqde-fl's reply to the question for the number of examples."""
    with observed_call(message, context):
        return client_app.app(message, context)


def secure_query(message: Message, context: Context) -> Message:
    """Return hqde-fl's reply to a question of secure aggregation."""
    with observed_call(message, context):
        return client_app.app(message, context)


for action in QUERIES:
    app.query(action)(secure_query)
