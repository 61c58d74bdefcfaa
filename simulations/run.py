"""One experiment from beginning to end, on the engine it asks for."""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from json import loads
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, Context, RecordDict

from hqde_fl.errors import ConfigError
from simulations.comparison import Comparison
from simulations.config import Experiment
from simulations.document import with_value
from simulations.results import ROUNDS, Run, close, note, round_line
from strategies.callbacks import Callback, RoundRecord

if TYPE_CHECKING:
    from simulations.engines.inline import InlineGrid
    from simulations.engines.ray_grid import RayGrid

OnRound = Callable[[Mapping[str, Any]], None]
"""Called with every line of ``rounds.jsonl`` as it is written."""

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Parameters
    ----------
    path : Path
        Its directory.
    final : Mapping[str, float | None]
        The server's metrics of the last round.
    """

    path: Path
    final: Mapping[str, float | None]


def run_experiment(
    experiment: Experiment,
    out: Path,
    *,
    engine: str | None = None,
    on_round: OnRound | None = None,
    superlink: str = "",
    report: bool = True,
) -> RunResult:
    """Run an experiment.

    Parameters
    ----------
    experiment : Experiment
        What to run.
    out : Path
        The run directory: new or empty. Nothing is written unless the experiment can start.
    engine : str, optional
        Where to run it; the experiment's own engine if not given.
    on_round : Callable, optional
        Told about every round.
    superlink : str, optional
        For the engine ``flower``: run on real nodes, those of a federation's directory
        (``hqde-fl nodes``) or of a SuperLink that Flower's configuration names.
    report : bool, default=True
        Whether to draw ``report.html``; engine flower always does.

    Raises
    ------
    ConfigError
        If the experiment's data is missing or ``out`` is not empty.
    RunError
        If the engine failed. What was recorded is kept, as it is when the user interrupts.
    """
    if engine is not None:
        experiment = Experiment.parse(with_value(experiment.to_table(), "engine.name", engine, {}))
    out = out.resolve()
    require_empty(out)
    if experiment.engine.name == "ray":
        from simulations.engines.ray_pool import prepare

        prepare(experiment.engine.address, experiment.engine.runtime_env)
    experiment.load_task()
    if superlink and experiment.engine.name != "flower":
        raise ConfigError(f"a SuperLink needs engine flower, found {experiment.engine.name}")
    flower = partial(_deployed, superlink=superlink) if superlink else _on_flower
    engines = {"flower": flower, "inline": _inline, "ray": _on_ray}
    with _interruptible(on_round or _ignore) as listener:
        engines[experiment.engine.name](experiment, out, listener)
    if superlink and not (out / ROUNDS).exists():
        return RunResult(out, {})  # what the ServerApp wrote is on its own host
    if report and experiment.engine.name != "flower":
        from simulations.report import write_report

        write_report(Comparison.of(Run.load(out)), out)
    return RunResult(out, Run.load(out).final)


def require_empty(out: Path) -> None:
    """Raise ``ConfigError`` unless a run may write into the directory."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty directory: choose another --out")


def _inline(experiment: Experiment, out: Path, on_round: OnRound) -> None:
    """In this process."""
    from simulations import client_app
    from simulations.engines.inline import InlineGrid

    config = _run_config(experiment, out)
    grid = InlineGrid(client_app.app, experiment.clients.count, config, experiment.seed)
    _serve(grid, config, on_round)


def _on_ray(experiment: Experiment, out: Path, on_round: OnRound) -> None:
    """In worker processes on this machine or a cluster."""
    from simulations import client_app
    from simulations.engines.ray_grid import RayGrid

    config = _run_config(experiment, out)
    grid = RayGrid(
        client_app.app,
        experiment.clients.count,
        config,
        experiment.seed,
        resources=experiment.resources,
        address=experiment.engine.address,
        runtime_env=dict(experiment.engine.runtime_env),
    )
    if grid.dashboard:
        print(f"Ray dashboard: http://{grid.dashboard}", file=sys.stderr)
    try:
        _serve(grid, config, on_round)
    finally:
        note(out, {"ray": dataclasses.asdict(grid.counters)})


def _run_config(experiment: Experiment, out: Path) -> dict[str, Any]:
    return {"config": experiment.to_json(), "out": str(out)}


def _serve(grid: InlineGrid | RayGrid, config: dict[str, Any], on_round: OnRound) -> None:
    """Run the ServerApp in this process."""
    from simulations import server_app

    context = Context(grid.run.run_id, 0, {}, RecordDict(), config)
    server_app.serve(grid, context, [_Listener(on_round)])


def _on_flower(experiment: Experiment, out: Path, on_round: OnRound) -> None:
    """In the processes that ``flwr run`` starts; they write the run directory."""
    from simulations.engines.flower import run_flower

    groups = experiment.resources
    if len(groups) > 1 or groups[0].partitions:
        raise ConfigError("engine flower gives every client the same: one group without partitions")
    resources = groups[0]
    try:
        with _followed(out / ROUNDS, on_round):
            run_flower(
                experiment.to_json(),
                experiment.clients.count,
                out,
                cpus_per_client=resources.num_cpus,
                gpus_per_client=0 if resources.num_gpus == "auto" else resources.num_gpus,
                on_line=_ignore,
            )
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        close(out, "interrupted" if interrupted else "failed", None if interrupted else str(error))
        raise


def _deployed(experiment: Experiment, out: Path, on_round: OnRound, superlink: str) -> None:
    """On real nodes; the SuperLink's processes write the run directory."""
    from simulations.deploy.target import find
    from simulations.engines.flower import run_deployed

    target = find(superlink, experiment.clients.count)
    try:
        with _followed(out / ROUNDS, on_round):
            run_deployed(
                experiment.to_json(),
                out,
                target.superlink,
                connection=target.connection,
                on_line=_ignore,
            )
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        close(out, "interrupted" if interrupted else "failed", None if interrupted else str(error))
        raise


@contextmanager
def _interruptible(on_round: OnRound) -> Iterator[OnRound]:
    """Make sure that Ctrl-C ends a run.

    Python raises KeyboardInterrupt wherever it happens to be; in a destructor or a callback from C
    it is only printed. So it is raised once more at the end of the round.
    """
    if threading.current_thread() is not threading.main_thread():
        yield on_round
        return
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def listener(line: Mapping[str, Any]) -> None:
        on_round(line)
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield listener
    finally:
        signal.signal(signal.SIGINT, before)


class _Listener(Callback):
    """Passes rounds on, as the lines they become."""

    def __init__(self, on_round: OnRound) -> None:
        self._on_round = on_round

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Pass the round on."""
        self._on_round(round_line(record))


@contextmanager
def _followed(path: Path, on_round: OnRound) -> Iterator[None]:
    """While it lasts, and once more at its end, pass on lines that another process appends."""
    over, seen = threading.Event(), 0

    def read() -> None:
        nonlocal seen
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        for line in lines[seen:]:
            on_round(loads(line))
        seen = len(lines)

    def follow() -> None:
        while not over.wait(POLL_SECONDS):
            read()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        read()


def _ignore(line: object) -> None:
    """Nobody listens."""
