"""HQDE's front: from a model class and a ``DataLoader`` to a trained ensemble in one call.

Underneath is a federation like any other here: the loader's data set is divided among the workers,
which are Flower clients; an epoch is a round; ``HQDEStrategy`` merges what they send.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import torch
from flwr.app import ArrayRecord
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.batches import call_model
from hqde_fl.clients.evaluation import class_probabilities, evaluate_batches, evaluation_mode
from hqde_fl.clients.members import initial_state, split
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.codec import Codec
from hqde_fl.errors import ConfigError, DataError, UnknownNameError
from hqde_fl.prediction import Prediction
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble
from hqde_fl.simulations.console.interruption import interruptible
from hqde_fl.simulations.console.progress import progress, quiet_flower
from hqde_fl.simulations.system.federation import Epochs, Federation, check_alike, task_of
from hqde_fl.simulations.system.loaders import Portions, Reading, Source
from hqde_fl.simulations.system.settings import Config, Settings, check_device, table, whole
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Aggregation, Communication, Participation, Reporting
from hqde_fl.strategies.state import ServerState

ENGINES = ("auto", "inline", "ray")
DEADLINE = 24 * 3600.0
"""Seconds that an epoch may take."""


def create_hqde_system(
    model_class: Callable[..., nn.Module],
    model_kwargs: Mapping[str, Any] | None = None,
    num_workers: int = 4,
    quantization_config: Config | Codec | None = None,
    aggregation_config: Config | None = None,
    training_config: Config | None = None,
    *,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    seed: int = 0,
    engine: str = "auto",
    show_progress: bool = True,
) -> HQDESystem:
    """An ``HQDESystem`` from HQDE's configuration dictionaries.

    Parameters
    ----------
    model_class : Callable[..., nn.Module]
        A module class, or anything that returns a module when called with ``model_kwargs``.
    model_kwargs : Mapping[str, Any], optional
        Its arguments.
    num_workers : int, default=4
        Among how many workers the data are divided, >= 1.
    quantization_config : Mapping or Codec, optional
        How workers pack their updates: ``base_bits`` (8), ``min_bits`` (4), ``max_bits`` (16),
        ``allocation`` and ``block`` of ``AdaptiveQuantizer``; or the ``name`` of another codec and
        its parameters, ``{"name": "identity"}`` for full weights; or a codec.
    aggregation_config : Mapping, optional
        ``rule`` (``"superposition"``): the name of a rule, a table or a rule; ``server_optimizer``
        (``"sgd"``) likewise; ``noise_scale`` (0): of exploration noise, relative to the update;
        ``exploration_factor`` (0.1): how fast that noise dies down, an epoch.
    training_config : Mapping, optional
        ``optimizer`` (``"adamw"`` or ``"sgd"``), ``learning_rate`` (1e-3, or 0.05 for SGD),
        ``momentum``, ``weight_decay``, ``proximal_mu``, ``threads``, ``device``;
        ``members`` (1): models in the ensemble; ``prediction_aggregation`` (``"soft-vote"``): how
        they predict together.
    loss_fn : Callable, optional
        (outputs, targets) -> mean loss. Without it, and with torch's cross entropy, the models are
        classifiers: they return scores (examples, classes) and the targets are classes.
    seed : int, default=0
        The root of all randomness.
    engine : {"auto", "ray", "inline"}
        Where the workers are: in processes on Ray, or in this one. Auto: on Ray if it is installed.
    show_progress : bool, default=True
        Print every epoch.

    Raises
    ------
    ConfigError
        For a key that does not exist or a value that cannot be, before anything is started.
    """
    if isinstance(model_class, nn.Module) or not callable(model_class):
        raise ConfigError(
            "model_class needs to be a class or a function that builds a module, "
            f"found {type(model_class).__name__} {model_class!r:.60}"
        )
    return HQDESystem(
        partial(model_class, **table("model_kwargs", model_kwargs)),
        num_workers,
        Settings.of(quantization_config, aggregation_config, training_config, seed),
        loss_fn=loss_fn,
        seed=seed,
        engine=engine,
        show_progress=show_progress,
    )


@final
class HQDESystem:
    """An ensemble that is trained by a federation of workers; see ``create_hqde_system``.

    It is a context manager, which cleans up.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds a model.
    num_workers : int
        Among how many workers the data are divided, >= 1.
    settings : Settings, optional
        How they train, merge and predict.
    loss_fn : Callable, optional
        (outputs, targets) -> mean loss; cross entropy if not given.
    seed : int
        The root of all randomness.
    engine : {"auto", "ray", "inline"}
        Where the workers are.
    show_progress : bool
        Print every epoch.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        num_workers: int = 4,
        settings: Settings | None = None,
        *,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        seed: int = 0,
        engine: str = "auto",
        show_progress: bool = True,
    ) -> None:
        num_workers, seed = whole("num_workers", num_workers, 1), whole("seed", seed, 0)
        if loss_fn is not None and not callable(loss_fn):
            raise ConfigError(f"loss_fn needs to be a function, found {loss_fn!r}")
        if engine not in ENGINES:
            raise UnknownNameError("engine", engine, ENGINES)
        self.settings = settings or Settings()
        self.num_workers, self.seed, self.show_progress = num_workers, seed, show_progress
        if (needed := self.settings.rule.minimum()) > num_workers:
            raise ConfigError(
                f"{self.settings.rule} needs num_workers >= {needed}, found {num_workers}"
            )
        if engine == "auto":
            engine = "ray" if importlib.util.find_spec("ray") else "inline"
        self.engine = engine
        self.epochs = 0
        check_device(self.settings.training.placement)
        self._task = task_of(model, loss_fn)
        initial = initial_state(self._task, self.settings.members, Seeds(seed))
        self._arrays = to_record(initial)
        self._state: ServerState | None = None
        self._federation: Federation | None = None
        self._strategy: HQDEStrategy | None = None

    # --- training ---------------------------------------------------------------------------------

    def train(
        self,
        loader: DataLoader[Any],
        num_epochs: int = 10,
        validation_loader: Iterable[Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Train, from where the last call ended.

        Ctrl-C, SIGTERM and SIGHUP end it as they end ``run_experiment``; the epochs that were over
        by then are kept.

        The loader's data set is divided at random into as many portions as there are workers, of
        equal size, and reaches the workers once. Its batch size and ``collate_fn`` are kept; each
        worker shuffles its portion in every epoch. Processes that load data (the loader's
        ``num_workers``), ``drop_last`` and ``pin_memory`` do not act.

        Parameters
        ----------
        loader : DataLoader
            Over a map-style data set.
        num_epochs : int, default=10
            How many epochs more, >= 1. The workers' models are merged after each.
        validation_loader : Iterable, optional
            Batches on which the merged model is evaluated after every epoch.

        Returns
        -------
        list[dict[str, Any]]
            For each epoch ``epoch``, ``train-loss``, ``validation-...`` metrics, ``bytes-up`` and
            ``bytes-down``, ``kept`` workers of those ``asked``, and ``seconds``.

        Raises
        ------
        ConfigError
            If the loader is not of this kind.
        RunError
            If an epoch fails on all workers; the message has what a worker raised.
        """
        num_epochs = whole("num_epochs", num_epochs, 1)
        source = Source.of(loader, self.num_workers)
        last = self.epochs + num_epochs
        with interruptible(), quiet_flower(), self._shown(last) as show:
            federation = self._federation_for(source)
            validate = None if validation_loader is None else partial(self._on, validation_loader)
            epochs = Epochs(show, self._learn, validate)
            self._strategy = HQDEStrategy(
                Aggregation(self.settings.rule, self.settings.server_optimizer),
                communication=Communication(self.settings.codec, deadline=DEADLINE),
                participation=Participation(
                    fraction_evaluate=0.0, min_available_nodes=self.num_workers, identify=True
                ),
                ensemble=Ensemble(self.settings.members),
                reporting=Reporting((epochs,)),
                seed=self.seed,
            )
            self._strategy.start(federation.grid, self._arrays, last, resume=self._state)
        return epochs.found

    def _federation_for(self, source: Source) -> Federation:
        """The workers that hold the data already, or new ones."""
        federation = self._federation
        if federation is None or not federation.fits(source):
            self.cleanup()
            reading = Reading.of(self._models[0])
            task = replace(
                self._task,
                partition=Portions(source.data, self.seed),
                collate=source.collate_for(reading),
            )
            training = replace(self.settings.training, batch_size=source.batch_size)
            app = ensemble_app(
                task, members=self.settings.members, training=training, seed=self.seed
            )
            federation = Federation.of(self.engine, app, self.num_workers, self.seed, source)
            self._federation = federation
        return federation

    def _learn(self, epoch: int, arrays: ArrayRecord) -> None:
        """Keep what an epoch came to."""
        assert self._strategy is not None
        self._arrays, self._state, self.epochs = arrays, self._strategy.state, epoch

    @contextmanager
    def _shown(self, epochs: int) -> Iterator[Callable[..., None]]:
        if not self.show_progress:
            yield lambda line: None
            return
        with progress(epochs, Console(), "hqde") as show:
            yield show

    # --- what it has learnt -----------------------------------------------------------------------

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """How good the ensemble is on labelled batches.

        Returns
        -------
        dict[str, float]
            ``loss``; of classifiers also ``accuracy``, ``nll`` (negative log likelihood) and
            ``ece`` (expected calibration error); of several also a ``member``'s alone, and their
            ``diversity`` and ``disagreement``.
        """
        return self._on(loader, self._arrays)

    def predict(self, loader: Iterable[Any]) -> Tensor:
        """Classes (n,), in the loader's order; with a loss of your own the mean outputs.

        Batches look as in training; targets in them are not looked at.
        """
        if self._task.classifier:
            return self.predict_proba(loader).label
        return self._voices(loader).mean(dim=1)

    def predict_proba(self, loader: Iterable[Any]) -> Prediction:
        """Class probabilities (n, c) in the loader's order, and how uncertain they are.

        Raises
        ------
        ConfigError
            If the system was given a loss of its own, which need not be that of a classifier.
        """
        if not self._task.classifier:
            raise ConfigError("predict_proba needs classifiers: loss_fn is not torch's")
        return self.settings.predictor.predict(self._voices(loader).transpose(0, 1))

    def state_dicts(self) -> list[dict[str, Tensor]]:
        """The members' weights, as ``model.load_state_dict`` takes them."""
        return split(from_record(self._arrays), self.settings.members)

    def _on(self, loader: Iterable[Any], arrays: ArrayRecord) -> dict[str, float]:
        """How good models with these weights are on labelled batches."""
        models = self._holding(arrays)
        device = torch.device(self.settings.training.placement)
        with reproducible(0, self.settings.training.threads):
            found = Reading.of(models[0]).batches(loader, device)
            return evaluate_batches(
                models, found, self._task, self.settings.predictor, calibrated=True
            )

    def _voices(self, loader: Iterable[Any]) -> Tensor:
        """(n, members, ...) what each member says of every example."""
        if not (found := list(self._outputs(loader))):
            raise DataError("the loader needs at least 1 batch, found 0")
        return torch.cat(found)

    @torch.no_grad()
    def _outputs(self, loader: Iterable[Any]) -> Iterator[Tensor]:
        """(examples, members, ...) of each batch: probabilities of classifiers, else outputs."""
        models = self._holding(self._arrays)
        reading = Reading.of(models[0])
        device = torch.device(self.settings.training.placement)
        with reproducible(0, self.settings.training.threads), evaluation_mode(models):
            for batch in reading.batches(loader, device):
                each = [call_model(model, batch.inputs) for model in models]
                found = class_probabilities(each) if self._task.classifier else torch.stack(each)
                yield found.transpose(0, 1).cpu()

    def _holding(self, arrays: ArrayRecord) -> list[nn.Module]:
        """The members' models with these weights."""
        states = split(from_record(arrays), self.settings.members)
        for model, state in zip(self._models, states, strict=True):
            model.load_state_dict(state)
        return self._models

    @cached_property
    def _models(self) -> list[nn.Module]:
        with reproducible(0):  # building a model draws numbers that nobody else should miss
            members = range(self.settings.members)
            return [self._task.model().to(self.settings.training.placement) for _ in members]

    # --- files and processes ----------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Save the members' weights and the number of epochs, as a safetensors file.

        Raises
        ------
        DataError
            If the file cannot be written.
        """
        about = {"epochs": str(self.epochs), "members": str(self.settings.members)}
        state = {name: tensor.contiguous() for name, tensor in from_record(self._arrays).items()}
        try:
            save_file(state, path, metadata={"hqde-fl": json.dumps(about)})
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be written: {error}") from None

    def load(self, path: str | Path) -> None:
        """Take the weights that a system of the same models has saved, and train on from there.

        What the rule and the server optimiser remember is not in the file: they start anew.

        Raises
        ------
        DataError
            If there is no such file, or if it holds other models' weights.
        """
        try:
            state = load_file(path)
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {}).get("hqde-fl", "{}"))
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be loaded: {error}") from None
        expected = from_record(self._arrays)
        check_alike(path, expected, state)
        self._arrays = to_record({name: state[name] for name in expected})
        self.epochs = int(about.get("epochs", 0))
        begun = ServerState.of(self._arrays, self.settings.members)
        self._state = replace(begun, round=self.epochs)

    def cleanup(self) -> None:
        """End the workers, and a Ray if this process has it for systems like this one only.

        A Ray that was there before stays, and whatever runs on it. The system keeps what it has
        learnt; training again starts new workers.
        """
        federation, self._federation = self._federation, None
        if federation is not None:
            federation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cleanup()
