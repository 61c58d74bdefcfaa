"""``HQDESystem``: an ensemble that a federation of workers trains on a ``DataLoader``'s data.

The loader's data set is divided among the workers, which are Flower clients; an epoch is a round,
whose updates ``HQDEStrategy`` merges.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast, final

from flwr.app import ArrayRecord
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.initial_state import initial_roles, initial_state
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.prediction import Prediction
from hqde_fl.protocol.members import split_members
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble, Uniform
from hqde_fl.simulations.console.interruption import interruptible
from hqde_fl.simulations.console.progress import progress, quiet_flower
from hqde_fl.simulations.system.epochs import Epochs
from hqde_fl.simulations.system.loader_data import LoaderData, Portions
from hqde_fl.simulations.system.member_models import MemberModels
from hqde_fl.simulations.system.model_file import load_weights, save_weights
from hqde_fl.simulations.system.settings import Settings, check_device, whole
from hqde_fl.simulations.system.system_task import task_of
from hqde_fl.simulations.system.workers import Workers
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.private_plan import PrivatePlan
from hqde_fl.strategies.settings import Aggregation, Communication, Participation, Reporting
from hqde_fl.strategies.state import ServerState

ENGINES = ("auto", "inline", "ray")
DEADLINE = 24 * 3600.0
"""Time limit of an epoch in seconds."""


@final
class HQDESystem:
    """An ensemble that is trained by a federation of workers; see ``create_hqde_system``.

    A context manager that calls ``cleanup`` on exit.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds a model.
    num_workers : int, default=4
        Number of workers that share the data, >= 1.
    settings : Settings, optional
        Settings of training, aggregation and prediction; those of ``create_hqde_system`` without
        configurations if not given.
    loss_fn : Callable, optional
        (outputs, targets) -> mean loss; cross entropy if not given.
    class_axis, ignore_index : int, optional
        See ``create_hqde_system``.
    seed : int, default=0
        Seed of all random numbers, >= 0.
    engine : {"auto", "ray", "inline"}, default="auto"
        Engine that runs the workers, see ``create_hqde_system``.
    show_progress : bool, default=True
        Print a line per epoch.

    Attributes
    ----------
    epochs : int
        Number of completed epochs.
    history : list[dict[str, Any]]
        What ``train`` returned of each epoch so far, also of one whose validation failed.
    monitor : PerformanceMonitor or None
        Measures resources and time in ``train``; ``monitor.summary()`` tells them. Its records stay
        in memory: set another one, ``PerformanceMonitor("DIR")``, to keep them, or None for none.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        num_workers: int = 4,
        settings: Settings | None = None,
        *,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        class_axis: int | None = None,
        ignore_index: int | None = None,
        seed: int = 0,
        engine: str = "auto",
        show_progress: bool = True,
    ) -> None:
        num_workers, seed = whole("num_workers", num_workers, 1), whole("seed", seed, 0)
        if loss_fn is not None and not callable(loss_fn):
            raise ConfigError(f"loss_fn needs to be a function, found {loss_fn!r}")
        if isinstance(loss_fn, type):
            name = loss_fn.__name__
            raise ConfigError(f"loss_fn needs to be a function, found the class {name}: {name}()")
        if engine not in ENGINES:
            raise UnknownNameError("engine", engine, ENGINES)
        self.settings = settings or Settings.of(None, None, None, seed, num_workers)
        self.num_workers, self.seed, self.show_progress = num_workers, seed, show_progress
        if (needed := self.settings.rule.minimum()) > num_workers:
            raise ConfigError(
                f"{self.settings.rule} needs num_workers >= {needed}, found {num_workers}"
            )
        if (privacy := self.settings.privacy) is not None:
            members = self.settings.members
            PrivatePlan.of(privacy, Uniform(), num_workers, self.settings.rule, members)
        if engine == "auto":
            engine = "ray" if importlib.util.find_spec("ray") else "inline"
        self.engine = engine
        self.epochs = 0
        self.history: list[dict[str, Any]] = []
        check_device(self.settings.training.placement)
        self._task = task_of(model, loss_fn, class_axis, ignore_index)
        self._roles = initial_roles(self._task)
        initial = initial_state(self._task, self.settings.members, Seeds(seed))
        self._arrays = to_record(initial)
        self._state: ServerState | None = None
        self._workers: Workers | None = None
        self._models = MemberModels(self._task, self.settings, Seeds(seed))
        self._strategy: HQDEStrategy | None = None
        self.monitor: PerformanceMonitor | None = PerformanceMonitor()

    # --- training ---------------------------------------------------------------------------------

    def train(
        self,
        loader: DataLoader[Any],
        num_epochs: int = 10,
        validation_loader: Iterable[Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Train for further epochs and return a record of each.

        Ctrl-C ends it with ``KeyboardInterrupt``, SIGTERM and SIGHUP with ``Terminated``; completed
        epochs are kept.

        The loader's data set is divided at random into one portion per worker, of equal sizes, and
        sent to the workers once. Its ``collate_fn`` is used, and its batches are split among the
        workers (see ``batch_assignment`` of ``create_hqde_system``); each worker shuffles its
        portion in every epoch. The loader's ``num_workers`` (processes that load data),
        ``drop_last`` and ``pin_memory`` have no effect.

        Parameters
        ----------
        loader : DataLoader
            A loader of a map-style data set.
        num_epochs : int, default=10
            Number of further epochs, >= 1. The workers' models are merged after each.
        validation_loader : Iterable, optional
            Batches on which the merged model is evaluated after every epoch.

        Returns
        -------
        list[dict[str, Any]]
            For each epoch ``epoch``, ``train-loss``, ``validation-...`` metrics, ``bytes-up`` and
            ``bytes-down``, the numbers of workers ``asked`` and ``kept``, and ``seconds``.

        Raises
        ------
        ConfigError
            If the loader cannot be divided in this way, or if a batch of it, or of
            ``validation_loader``, shows an error of the model, the loss or the data: the message
            names what raised it, and nothing has been trained.
        RunError
            If an epoch fails on all workers; the message contains the error of one. Or if the
            evaluation on ``validation_loader`` fails: that epoch is kept, and training can go on.
        """
        num_epochs = whole("num_epochs", num_epochs, 1)
        data = LoaderData.of(loader, self.num_workers)
        last, before = self.epochs + num_epochs, len(self.history)
        with interruptible(), quiet_flower(), self._shown_progress(last) as show:
            workers = self._workers_with(data, validation_loader)
            validate = (
                None
                if validation_loader is None
                else partial(self._models.evaluate, validation_loader)
            )
            epochs = Epochs(show, self._keep, validate, self.history)
            self._strategy = HQDEStrategy(
                Aggregation(
                    self.settings.rule,
                    self.settings.server_optimizer,
                    privacy=self.settings.privacy,
                ),
                communication=Communication(self.settings.codec, deadline=DEADLINE),
                participation=Participation(
                    fraction_evaluate=0.0, min_available_nodes=self.num_workers, identify=True
                ),
                ensemble=Ensemble(self.settings.members),
                reporting=Reporting((epochs,)),
                seed=self.seed,
                roles=self._roles,
            )
            with self.monitor or nullcontext():
                self._strategy.start(workers.grid, self._arrays, last, resume=self._state)
        return self.history[before:]

    def _workers_with(self, data: LoaderData, validation: Iterable[Any] | None) -> Workers:
        """Return the workers if they live and hold the data, else end them and start new ones.

        Before new ones start, a model is trained on a batch of the data, and evaluated on one of
        the validation.
        """
        workers = self._workers
        self._models.trained_on(data)
        if workers is None or not workers.hold(data):
            self.cleanup()
            task = replace(
                self._task,
                partition=Portions(data.dataset, self.seed),
                collate=data.task_collate,
            )
            size = len(cast(Sized, data.dataset))
            training = self.settings.worker_training(data.batch_size, size, self.num_workers)
            self._models.check(task, training, validation)
            app = ensemble_app(
                task, members=self.settings.members, training=training, seed=self.seed
            )
            workers = Workers.start(self.engine, app, self.num_workers, self.seed, data)
            self._workers = workers
        return workers

    def _keep(self, epoch: int, arrays: ArrayRecord) -> None:
        """Set the system's weights, server state and number of epochs to those after an epoch."""
        assert self._strategy is not None
        self._arrays, self._state, self.epochs = arrays, self._strategy.state, epoch

    @contextmanager
    def _shown_progress(self, epochs: int) -> Iterator[Callable[..., None]]:
        if not self.show_progress:
            yield lambda line: None
            return
        with progress(epochs, Console(), "hqde") as show:
            yield show

    # --- evaluation and prediction ----------------------------------------------------------------

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Return the ensemble's loss and metrics on labelled batches; the weights do not change.

        Returns
        -------
        dict[str, float]
            ``loss``; of classifiers also ``accuracy``, ``nll`` (negative log likelihood) and
            ``ece`` (expected calibration error); of several members also the mean of each over the
            members as ``member-...``, and their ``diversity`` and ``disagreement``. Of classifiers
            they are means over all targets but the ignored label.
        """
        return self._models.evaluate(loader, self._arrays)

    def predict(self, loader: Iterable[Any]) -> Any:
        """Return classifiers' predicted classes (n, ...), or other models' mean outputs.

        The models are classifiers if the loss is torch's cross entropy: each place of an example
        that has class scores gets a class, (n, t) for outputs (n, t, classes) or (n, classes, t).
        The mean is that over the members; of outputs with ``logits`` it is theirs, of mappings and
        tuples that of every tensor. The order is that of the loader. Batches have the form of
        training batches; targets in them are ignored. Batches of different lengths are padded at
        their ends: classes with the ignored label, other numbers with NaN.

        Raises
        ------
        ConfigError
            If neither ``class_axis``, the training data nor targets in the batches tell which axis
            of the outputs has the classes.
        """
        if self._task.classifier:
            return self.predict_proba(loader).label
        return self._models.mean_outputs(loader, self._arrays)

    def predict_proba(self, loader: Iterable[Any]) -> Prediction:
        """Return class probabilities in the shape of the outputs, with their uncertainty.

        The order and the padding are those of ``predict``.

        Raises
        ------
        ConfigError
            If the loss is not torch's cross entropy: the models need not be classifiers. Also as in
            ``predict``.
        """
        if not self._task.classifier:
            raise ConfigError("predict_proba needs classifiers: loss_fn is not torch's")
        return self._models.predict(loader, self._arrays)

    def choose_voters(self, loader: Iterable[Any], count: int) -> tuple[int, ...]:
        """Choose the members that vote from now on, by labelled batches that nobody trained on.

        Members of classifiers are chosen by accuracy and disagreement, others by the error of their
        mean (``hqde_fl.selection.member_choice``). ``predict``, ``predict_proba`` and ``evaluate``
        then use these members alone. All are trained further, and the choice stays until it is made
        again; ``save`` keeps it.

        Parameters
        ----------
        loader : Iterable
            Batches of the form of training batches.
        count : int
            The number of members to choose, in [1, members].

        Returns
        -------
        tuple[int, ...]
            Their numbers, from 0, in ascending order.
        """
        count = whole("count", count, 1)
        if count > self.settings.members:
            raise ConfigError(f"count must be <= {self.settings.members} members, found {count}")
        self._models.voters = self._models.choose_voters(loader, self._arrays, count)
        return self.voters

    @property
    def voters(self) -> tuple[int, ...]:
        """The numbers of the members that vote: all, unless ``choose_voters`` chose some."""
        return self._models.voters

    def state_dicts(self) -> list[dict[str, Tensor]]:
        """Return each member's weights as a dict that ``model.load_state_dict`` takes."""
        return split_members(from_record(self._arrays), self.settings.members)

    # --- files and processes ----------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Save the members' weights, who votes, and the number of epochs as a safetensors file.

        Raises
        ------
        DataError
            If the file cannot be written.
        """
        save_weights(path, self._arrays, self.epochs, self.settings.members, self.voters)

    def load(self, path: str | Path) -> None:
        """Load weights, voters and number of epochs that a system of the same models has saved.

        Training goes on from there. The file does not contain the state of the rule and of the
        server optimiser, which begin again.

        Raises
        ------
        DataError
            If the file cannot be read, or holds the weights of other models.
        """
        loaded = load_weights(path, self._arrays, self.settings.members)
        self._arrays, self.epochs, self._models.voters = loaded
        initial = ServerState.of(self._arrays, self.settings.members, self._roles)
        self._state = replace(initial, round=self.epochs)

    def cleanup(self) -> None:
        """End the workers, and Ray too if this process started it for systems alone.

        A Ray that was running before, and other work on it, is left alone. The system keeps its
        weights: it still predicts, evaluates and saves, and further training starts new workers.
        """
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cleanup()
