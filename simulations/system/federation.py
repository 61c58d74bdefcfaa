"""What is underneath an ``HQDESystem``: its task, its workers, and its epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from torch import Tensor, nn
from torch.nn import functional

from hqde_fl.clients.batches import logits_of
from hqde_fl.clients.task import Task, accuracy
from hqde_fl.errors import ConfigError, DataError, RunError
from hqde_fl.simulations.recording.run_directory import round_line
from hqde_fl.simulations.system.loaders import Source
from hqde_fl.strategies.callbacks import Callback, RoundRecord

if TYPE_CHECKING:
    from hqde_fl.simulations.engines.inline import InlineGrid
    from hqde_fl.simulations.engines.ray.grid import RayGrid
    from hqde_fl.simulations.engines.ray.lease import RayLease

LossFn = Callable[[Any, Any], Tensor]


def task_of(model: Callable[[], nn.Module], loss_fn: LossFn | None) -> Task:
    """What is learnt, before there are data.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds the model.
    loss_fn : Callable, optional
        With none, and with torch's cross entropy, the model is a classifier.
    """
    usual = loss_fn is None or loss_fn is functional.cross_entropy
    classifier = usual or isinstance(loss_fn, nn.CrossEntropyLoss)
    return Task(
        model=partial(_module, model),
        partition=_no_data,
        test=_no_data,
        loss=partial(_loss, loss_fn or functional.cross_entropy, classifier),
        metrics={"accuracy": _accuracy} if classifier else {},
        classifier=classifier,
    )


def _module(model: Callable[[], nn.Module]) -> nn.Module:
    if not isinstance(built := model(), nn.Module):
        raise ConfigError(f"model_class needs to build a torch module, found {built!r:.60}")
    return built


def _loss(loss_fn: LossFn, classifier: bool, outputs: Any, targets: Any) -> Tensor:
    return loss_fn(logits_of(outputs) if classifier else outputs, targets)


def _accuracy(outputs: Any, targets: Tensor) -> float:
    return accuracy(logits_of(outputs), targets)


def _no_data(*_: Any) -> Any:
    raise RuntimeError("the data come with the loader")


def check_alike(
    path: str | Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> None:
    """Raise ``DataError`` unless a file's weights fit the models."""
    for name in sorted(expected.keys() | found.keys()):
        here, there = _described(expected.get(name)), _described(found.get(name))
        if here != there:
            raise DataError(f"{path} holds other models: {name!r} is {there}, expected {here}")


def _described(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"


@dataclass(eq=False)
class Federation:
    """The workers, and the data they hold.

    Parameters
    ----------
    grid : InlineGrid or RayGrid
        The way to them.
    source : Source
        What they hold.
    lease : RayLease or None
        Of the Ray that they are on.
    """

    grid: InlineGrid | RayGrid
    source: Source
    lease: RayLease | None = None

    @classmethod
    def of(cls, engine: str, app: ClientApp, workers: int, seed: int, source: Source) -> Self:
        """New workers, in this process or on Ray; with the app the data reach each process once."""
        if engine == "inline":
            from hqde_fl.simulations.engines.inline import InlineGrid

            return cls(InlineGrid(app, workers, {}, seed), source)
        from hqde_fl.simulations.engines.ray.grid import RayGrid
        from hqde_fl.simulations.engines.ray.lease import RayLease

        lease = RayLease()
        try:
            return cls(RayGrid(app, workers, {}, seed), source, lease)
        except BaseException:
            lease.release()
            raise

    def fits(self, source: Source) -> bool:
        """Whether they hold what a loader offers, and are still there."""
        return source.same(self.source) and (self.lease is None or self.lease.alive)

    def close(self) -> None:
        """End the workers; a Ray that was there before them stays."""
        if self.lease is not None:
            self.lease.release()


class Epochs(Callback):
    """Rounds as epochs of training.

    Parameters
    ----------
    show : Callable[[Mapping[str, Any]], None]
        Shown every round, as a line of ``rounds.jsonl``.
    learn : Callable[[int, ArrayRecord], None]
        Given every epoch and the model after it.
    validate : Callable[[ArrayRecord], Mapping[str, float]], optional
        What the model after an epoch is worth.
    """

    def __init__(
        self,
        show: Callable[[Mapping[str, Any]], None],
        learn: Callable[[int, ArrayRecord], None],
        validate: Callable[[ArrayRecord], Mapping[str, float]] | None = None,
    ) -> None:
        self.found: list[dict[str, Any]] = []
        self._show, self._learn, self._validate = show, learn, validate

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Pass the model on, unless nothing was learnt from anybody."""
        if record.round == 0:
            return
        if record.kept == 0:
            reason = next((each.reason for each in record.clients if each.reason), "no reply")
            raise RunError(f"epoch {record.round}: no worker could train: {reason}")
        if self._validate is not None:
            record = replace(record, server=self._validate(arrays))
        self._show(round_line(record))
        self._learn(record.round, arrays)
        self.found.append(
            {
                "epoch": record.round,
                "train-loss": record.clients_train.get("train-loss"),
                **{f"validation-{name}": value for name, value in record.server.items()},
                "bytes-up": record.bytes_up,
                "bytes-down": record.bytes_down,
                "kept": record.kept,
                "asked": record.asked,
                "seconds": record.seconds,
            }
        )
