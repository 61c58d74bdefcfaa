"""Ask a ClientApp to train the clients that get one content together, where it can."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hqde_fl.protocol.flower_internals import TaskIdentity
from hqde_fl.simulations.engines.torch_settings import TorchSettings

if TYPE_CHECKING:
    from hqde_fl.clients.cohort import CohortTraining


def cohort_training(app: ClientApp, message: Message, context: Context) -> CohortTraining | None:
    """Return the training of the clients that get a message's content.

    None if they must be called one by one, as those of a stock ClientApp or with the user's mods.
    """
    find: Callable[..., CohortTraining | None] | None = getattr(app, "cohort_training", None)
    return None if find is None else find(message, context)


@final
class OneClient:
    """A context in which one client of a cohort is trained.

    Parameters
    ----------
    node : int
        The id of its node.
    settings : TorchSettings
        The settings of torch that it begins with; what it changes ends with it.
    recording : AbstractContextManager
        A context that records what it does.
    """

    def __init__(
        self,
        node: int,
        settings: TorchSettings,
        recording: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._node, self._settings = node, settings
        self._recording = nullcontext() if recording is None else recording

    def __enter__(self) -> None:
        TaskIdentity.node_id = self._node
        self._recording.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._recording.__exit__(kind, error, trace)
        self._settings.adopt()
