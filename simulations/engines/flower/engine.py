"""The ``flower`` engine: run an experiment with stock ``flwr run`` and report its true outcome.

A run goes to a private SuperLink that simulates the nodes, or to a running one with real nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.checkpoint.store import DIRECTORY
from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.engines.flower.deployed_run import DeployedRun
from hqde_fl.simulations.engines.flower.flower_run import FlowerRun
from hqde_fl.simulations.engines.flower.round_lines import LOG_ROUNDS
from hqde_fl.simulations.engines.flower.superlink import SuperLink, private_superlink
from hqde_fl.simulations.engines.locked_folder import temporary_folder

NODES = "nodes"
"""Folder in that of the checkpoints with the states that simulated nodes keep of their clients."""


def run_flower(
    experiment_json: str,
    partitions: int,
    out: Path,
    *,
    cpus_per_client: float = 1,
    gpus_per_client: float = 0,
    resume: bool = False,
    on_line: Callable[[str], None],
) -> None:
    """Run an experiment with ``flwr run`` on simulated nodes and wait for its end.

    Parameters
    ----------
    experiment_json : str
        The complete experiment.
    partitions : int
        Number of simulated nodes.
    out : Path
        The run directory, written by the ServerApp; Flower's log is added to it.
    cpus_per_client : float, optional
        Number of CPUs for each running client, a whole number >= 1.
    gpus_per_client : float, optional
        Number of GPUs for each running client, >= 0; may be a fraction.
    resume : bool, optional
        True to resume the run in ``out``.
    on_line : Callable
        Called with each line of Flower's output.

    Raises
    ------
    ConfigError
        If Flower does not accept these resources of a client.
    RunError
        If the run did not end ``finished:completed``; the message has the reason.
    """
    federation = _federation_config(partitions, cpus_per_client, gpus_per_client)
    with private_superlink(out / DIRECTORY / NODES) as superlink:
        run = FlowerRun(superlink, superlink.home / "app", out, on_line, resume=resume)
        run.execute(experiment_json, str(out.resolve()), "--federation-config", federation)


def run_deployed(
    experiment_json: str,
    out: Path,
    superlink: SuperLink,
    *,
    connection: str = "",
    resume: bool = False,
    on_line: Callable[[str], None],
) -> str:
    """Run an experiment on real nodes and wait for its end; if interrupted, stop the run.

    Parameters
    ----------
    experiment_json : str
        The complete experiment.
    out : Path
        The directory of Flower's log; also the run directory, unless ``connection`` is given.
    superlink : SuperLink
        The SuperLink that runs it.
    connection : str, optional
        The SuperLink's name in Flower's configuration; empty for the default one. A SuperLink with
        a name is assumed to be on another host: the ServerApp writes the run directory there, below
        its own working directory.
    resume : bool, optional
        True to resume the run in ``out``.
    on_line : Callable
        Called with each line of Flower's output. With a ``connection`` the rounds are among them,
        for ``round_lines.RoundReader``.

    Returns
    -------
    str
        Flower's id of the run.

    Raises
    ------
    RunError
        If the run did not end ``finished:completed``; the message has the reason.
    """
    config = {LOG_ROUNDS: "yes"} if connection else {}
    with temporary_folder() as directory:
        app = directory / "app"
        run = DeployedRun(superlink, app, out, on_line, connection, resume, config)
        try:
            run.execute(experiment_json, "" if connection else str(out.resolve()))
        except BaseException:
            with uninterrupted():
                run.stop()
            raise
    return run.run_id


def run_on_superlink(
    experiment_json: str, out: Path, superlink: SuperLink, config: Mapping[str, str]
) -> None:
    """Start a run on the default SuperLink of ``superlink`` and wait for its end.

    Parameters
    ----------
    experiment_json : str
        The complete experiment.
    out : Path
        The directory of Flower's log.
    superlink : SuperLink
        The SuperLink that runs it.
    config : Mapping of str to str
        Further entries of the run's config, which tell its ServerApp what to do.

    Raises
    ------
    RunError
        If the run did not end ``finished:completed``; the message has the reason.
    """
    with temporary_folder() as directory:
        app = directory / "app"
        run = DeployedRun(superlink, app, out, lambda line: None, config=config)
        run.execute(experiment_json, "")


def _federation_config(partitions: int, cpus: float, gpus: float) -> str:
    """Return the value of ``--federation-config``: numbers of nodes, and of each one's CPUs, GPUs.

    ``ConfigError`` is raised if ``flwr run`` would not accept a number.
    """
    if partitions < 1:
        raise ConfigError(f"partitions = {partitions}: at least 1 is needed")
    if cpus < 1 or cpus != int(cpus):
        raise ConfigError(
            f"cpus-per-client = {cpus:g}: flwr run takes whole numbers of CPUs from 1 up"
        )
    if gpus < 0:
        raise ConfigError(f"gpus-per-client = {gpus:g}: it must not be negative")
    return (
        f"num-supernodes={partitions} client-resources-num-cpus={int(cpus)} "
        f"client-resources-num-gpus={float(gpus)}"
    )
