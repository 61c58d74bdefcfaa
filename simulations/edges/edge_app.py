"""The ClientApp of an edge on real nodes: a SuperNode of the root, with a SuperLink of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.clients.message_fields import partition_of, server_round
from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.clients.mods.downlink import DownlinkMod
from hqde_fl.clients.mods.entries import HeldEntriesMod, UnchangedEntriesMod
from hqde_fl.errors import CheckpointError, ConfigError, RunError
from hqde_fl.protocol.no_data import NO_DATA, no_data
from hqde_fl.simulations.edges.edge_home import EDGE_HOME
from hqde_fl.simulations.edges.edge_job import (
    JOB,
    EdgeJob,
    EdgeResult,
    result_file,
)
from hqde_fl.simulations.edges.idle_edge import IdleEdgeMod
from hqde_fl.simulations.edges.recording import CLIENT_BYTES
from hqde_fl.simulations.engines.flower.engine import run_on_superlink
from hqde_fl.simulations.engines.flower.superlink import SuperLink, environment_for
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.strategies.edges.edge import failed
from hqde_fl.strategies.state import ServerState

Launch = Callable[[Path, Experiment, Mapping[str, str]], None]
"""(FLWR_HOME, experiment, further entries of the run's config) -> runs it to its end."""


def edge_app(experiment: Experiment, launch: Launch | None = None) -> ClientApp:
    """Return the ClientApp of an edge of an experiment.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    launch : Launch, optional
        Runs a job on the edge's SuperLink; by default ``flwr run``.

    Raises
    ------
    ConfigError
        If the experiment has no edges.
    """
    edges = experiment.parts.edges
    if edges is None:
        raise ConfigError(f"a node with {EDGE_HOME} is an edge: it needs edges.groups, found none")
    client = EdgeClient(experiment, launch or _launch)
    clients = [len(group) for group in edges.settings.groups.clients(edges.clients)]
    app = ClientApp(
        mods=[
            HeldEntriesMod(),
            DownlinkMod(),
            UnchangedEntriesMod(),
            CodecMod(seed=edges.seeds.root),
            *edges.faults.mods(),
            IdleEdgeMod(clients),
        ]
    )
    app.train()(client.answer)
    app.evaluate()(client.answer)
    app.query("identity")(client.identity)
    return app


@final
class EdgeClient:
    """Answers the root's messages by runs on the edge's own SuperLink.

    What the edge's strategy remembers is kept in a file below its ``FLWR_HOME``.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    launch : Launch
        Runs a job on the edge's SuperLink.
    """

    def __init__(self, experiment: Experiment, launch: Launch) -> None:
        self._experiment, self._launch = experiment, launch

    def answer(self, message: Message, context: Context) -> Message:
        """Let the edge's clients train or evaluate, and return the edge's reply."""
        started = time.perf_counter()
        edge, _ = partition_of(context)
        home = Path(str(context.node_config[EDGE_HOME]))
        folder = home / "edges" / f"edge-{edge}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kind, number = message.metadata.message_type, server_round(message)
        before = self._state(folder, number if kind == MessageType.TRAIN else number + 1)
        job = folder / f"job-{os.getpid()}.safetensors"
        EdgeJob(edge, kind, message.content, *before).write(job)
        try:
            self._launch(home, self._experiment, {JOB: str(job)})
            result = EdgeResult.read(result_file(job))
        except RunError as error:
            return failed(message, f"edge {edge}: {error}")
        finally:
            job.unlink(missing_ok=True)
            with suppress(OSError):
                result_file(job).replace(folder / _STATE)
        if result.content is None:
            known = result.error == NO_DATA
            return no_data(message) if known else failed(message, result.error)
        content = RecordDict(dict(result.content))
        if kind == MessageType.TRAIN:
            metrics = MetricRecord(dict(content.metric_records["metrics"]))
            metrics["train-seconds"] = time.perf_counter() - started
            metrics.update(zip(CLIENT_BYTES, result.sent, strict=True))
            content["metrics"] = metrics
        return Message(content, reply_to=message)

    def identity(self, message: Message, context: Context) -> Message:
        """Reply with the number of the edge, as ``partition-id`` in a ``ConfigRecord``."""
        edge, _ = partition_of(context)
        identity = ConfigRecord({"partition-id": edge})
        return Message(RecordDict({"identity": identity}), reply_to=message)

    def _state(self, folder: Path, number: int) -> tuple[ServerState | None, Mapping[str, Any]]:
        """Return state and attackers' memory after the rounds before the root's round ``number``.

        The state is new if that of the file is of a later round, as of an earlier run, or the file
        cannot be read.
        """
        try:
            last = EdgeResult.read(folder / _STATE)
        except CheckpointError:
            return None, {}
        first = (number - 1) * self._experiment.edges.rounds + 1
        if last.state is None or last.state.round >= first:
            return None, {}
        return last.state, last.attack


_STATE = "state.safetensors"


def _launch(home: Path, experiment: Experiment, config: Mapping[str, str]) -> None:
    """Run a job on the default SuperLink of an ``FLWR_HOME`` and wait for its end."""
    superlink = SuperLink(home, environment_for(home, os.environ))
    run_on_superlink(experiment.to_json(), home / "edges", superlink, config)
