"""Shared parts of both examples: data for each client, a server with a robust rule, a liar."""

from __future__ import annotations

from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Subset, TensorDataset

from hqde_fl import (
    HQDEStrategy,
    InlineGrid,
    Participation,
    TrimmedMean,
    from_record,
    to_record,
)

CLIENTS = 5
LIAR = 0
"""The client that sends its update with the opposite sign, ten times as long."""

Train = Callable[[nn.Module, Subset], float]
"""Trains a model in place, and returns the mean loss."""


def data() -> tuple[TensorDataset, TensorDataset]:
    """Return the handwritten digits for training and for the test."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    return TensorDataset(x[:1400], y[:1400]), TensorDataset(x[1400:], y[1400:])


def network() -> nn.Module:
    """Return a model with its initial weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def client_app(train: Train) -> ClientApp:
    """Return a ClientApp around training of your own."""
    app = ClientApp()

    @app.train()
    def reply(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        examples = Subset(data()[0], range(number, 1400, CLIENTS))
        received = from_record(message.content["arrays"])
        model = network()
        model.load_state_dict(received)
        loss = train(model, examples)
        arrays = model.state_dict()
        if number == LIAR:
            arrays = {n: received[n] - 10 * (arrays[n] - received[n]) for n in arrays}
        metrics = MetricRecord({"num-examples": len(examples), "train-loss": loss})
        content = RecordDict({"arrays": to_record(arrays), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
    """Measure the global model on the test set."""
    model = network()
    model.load_state_dict(from_record(arrays))
    x, y = data()[1].tensors
    accuracy = (model(x).argmax(dim=1) == y).float().mean().item()
    print(f"round {number}: accuracy {accuracy:.3f}")
    return MetricRecord({"accuracy": accuracy})


def run(train: Train, rounds: int = 3) -> float:
    """Run the federation in this process, and return the final accuracy."""
    asked = Participation(fraction_evaluate=0.0)  # clients do not evaluate: the server does
    strategy = HQDEStrategy(TrimmedMean(f=1), participation=asked, seed=1)
    grid = InlineGrid(client_app(train), CLIENTS, {}, seed=1)  # RayGrid: in worker processes
    result = strategy.start(
        grid, to_record(network().state_dict()), num_rounds=rounds, evaluate_fn=evaluate
    )
    return float(result.evaluate_metrics_serverapp[rounds]["accuracy"])
