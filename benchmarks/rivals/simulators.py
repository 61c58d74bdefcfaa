"""The runs of ``benchmarks/throughput.py`` in other simulators: fluke and pfl.

Both are optional (the extra ``bench``, in an environment of its own: pfl needs an older
``dp-accounting`` than the extra ``privacy``). Each trains one client after the other in its one
process, which is how they run without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

SIMULATORS = ("fluke", "pfl")
"""Names of the packages that have runs here."""


def installed() -> list[str]:
    """Return the simulators that can be imported."""
    return [name for name in SIMULATORS if find_spec(name) is not None]


def train_in(
    simulator: str,
    model: Any,
    data: Sequence[tuple[Any, Any]],
    settings: tuple[int, float, int],
    on_round: Callable[[], None],
) -> Any:
    """Train a model for some rounds, all clients in each; return it.

    Parameters
    ----------
    simulator : str
        One of ``SIMULATORS``.
    model : nn.Module
        The model, which may be trained in place.
    data : Sequence[tuple[Tensor, Tensor]]
        Examples and labels of each client.
    settings : tuple[int, float, int]
        Batch size, learning rate of SGD, and number of rounds.
    on_round : Callable
        Is called at the end of each round.
    """
    return {"fluke": _in_fluke, "pfl": _in_pfl}[simulator](model, data, settings, on_round)


def _in_fluke(
    model: Any,
    data: Sequence[tuple[Any, Any]],
    settings: tuple[int, float, int],
    on_round: Callable[[], None],
) -> Any:
    import torch
    from fluke.algorithms.fedavg import FedAVG
    from fluke.client import Client
    from fluke.config import OptimizerConfigurator
    from fluke.data import FastDataLoader
    from fluke.server import Server

    size, lr, rounds = settings

    class Timed(Server):
        """A server that says when a round has ended."""

        def aggregate(self, *args: Any, **kwargs: Any) -> None:
            super().aggregate(*args, **kwargs)
            on_round()

    clients = [
        Client(
            index,
            FastDataLoader(x, y, num_labels=10, batch_size=size, shuffle=True),
            None,
            OptimizerConfigurator({"name": "SGD", "lr": lr}),
            torch.nn.CrossEntropyLoss(),
            local_epochs=1,
        )
        for index, (x, y) in enumerate(data)
    ]
    server = Timed(model, None, clients)
    algorithm = FedAVG(len(clients), None, {}, clients=clients, server=server)
    algorithm.run(rounds, 1.0, finalize=False)
    return server.model


def _in_pfl(
    model: Any,
    data: Sequence[tuple[Any, Any]],
    settings: tuple[int, float, int],
    on_round: Callable[[], None],
) -> Any:
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    size, lr, rounds = settings

    class Net(torch.nn.Module):
        """The model with the methods that pfl calls."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def loss(self, x: Any, y: Any, *, eval: bool = False) -> Any:
            self.model.train(not eval)
            return torch.nn.functional.cross_entropy(self.model(x), y)

        def metrics(self, x: Any, y: Any) -> dict[str, Any]:
            return {}

    class Ticks(TrainingProcessCallback):
        """Says when a round has ended."""

        def after_central_iteration(self, metrics: Any, *args: Any, **kwargs: Any) -> Any:
            on_round()
            return False, type(metrics)()

    def dataset(client: int) -> Any:
        order = torch.randperm(len(data[client][0]))
        return Dataset([values[order] for values in data[client]], user_id=str(client))

    users = list(range(len(data)))
    clients = FederatedDataset(dataset, get_user_sampler("minimize_reuse", users))
    net = Net()
    trained = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=len(users),
            val_cohort_size=0,
        ),
        SimulatedBackend(clients, clients),
        trained,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=lr, local_batch_size=size),
        callbacks=[Ticks()],
        send_metrics_to_platform=False,
    )
    return model
