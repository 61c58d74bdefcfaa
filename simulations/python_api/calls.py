"""Run experiments and sweeps from Python: ``hqde_fl.run`` and ``hqde_fl.sweep``."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.given_objects import given_objects
from hqde_fl.own_modules import searched_first
from hqde_fl.simulations.console.progress import progress as console_progress
from hqde_fl.simulations.console.progress import quiet_flower
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.overrides import name_of, read_toml
from hqde_fl.simulations.experiment.own_modules import add_folder_of
from hqde_fl.simulations.experiment.python_settings import to_toml, with_settings
from hqde_fl.simulations.experiment.sections import CheckpointSection, MonitorSection
from hqde_fl.simulations.experiment.shipped import experiment_file_of
from hqde_fl.simulations.python_api.run_result import RunResult
from hqde_fl.simulations.python_api.sweep_result import SweepResult
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.server_app import default_directory

Source = str | PathLike[str] | Mapping[str, Any] | Experiment
"""An experiment: a TOML file, one that comes with hqde-fl, settings, or an ``Experiment``."""


def run(
    experiment: Source | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    out: str | PathLike[str] | None = None,
    resume: str | PathLike[str] | None = None,
    progress: bool = False,
    report: bool = True,
    **settings: Any,
) -> RunResult:
    """Run an experiment and return its result.

    It works in scripts, notebooks, threads and tests. In the main thread, Ctrl-C and the kernel's
    interrupt end the run.

    Parameters
    ----------
    experiment : str, Path, Mapping or Experiment, optional
        A TOML file, the name of one that comes with hqde-fl such as ``"quickstart"``, settings like
        those of ``Experiment``, or an ``Experiment``. If not given, the settings are all there is;
        with ``resume``, the experiment is that of the directory.
    overrides : Mapping[str, Any], optional
        Settings that replace those of the experiment, by dotted key: ``{"strategy.quorum": 3}``.
        A dict changes the keys that it has; one with a ``name`` replaces the whole table.
    out : str or Path, optional
        The run directory, new or empty; a new one in ``runs/`` if not given.
    resume : str or Path, optional
        Go on with the run in this directory, or begin it if there is none in it. A complete run is
        not run again. Only ``rounds`` may grow, and ``engine`` and ``checkpoint`` change.
    progress : bool, default=False
        Print a line for each round. Otherwise nothing but warnings is printed.
    report : bool, default=True
        Draw ``report.html`` at once, and not only when ``report()`` of the result is called.
    **settings : Any
        Further settings with precedence over ``overrides``: ``rounds=5, rule=Krum(f=2),
        clients={"count": 8}``.

    Returns
    -------
    RunResult
        Its data frames, model, report and figure.

    Raises
    ------
    ConfigError
        If a setting is wrong (the message names it), data is missing, or the directory cannot be
        used. Nothing has been run then.
    RunError
        If the engine failed, or no round has an aggregate.

    Examples
    --------
    >>> import hqde_fl
    >>> result = hqde_fl.run("experiments/quickstart.toml", rounds=3)
    >>> result.rounds[["round", "server.accuracy"]]
    """
    _require_one(out, resume)
    checked = _experiment(experiment, (overrides or {}, settings), resume)
    with (
        _directory(out, resume, checked.name) as directory,
        quiet_flower(),
        _shown_rounds(checked, progress) as on_round,
    ):
        return run_experiment(
            checked, directory, on_round=on_round, report=report, resume=resume is not None
        )


def sweep(
    experiment: Source | None = None,
    axes: Mapping[str, Any] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    out: str | PathLike[str] | None = None,
    resume: str | PathLike[str] | None = None,
    jobs: int = 1,
    progress: bool = False,
    report: bool = True,
    **settings: Any,
) -> SweepResult:
    """Run every combination of the values of some keys and return the results.

    A cell that fails is a row with its error, and a warning; the others run nevertheless.

    Parameters
    ----------
    experiment : str, Path, Mapping or Experiment, optional
        A TOML file, with a ``[sweep]`` table or without, settings like those of ``Experiment``, or
        an ``Experiment``. If not given, the settings are all there is.
    axes : Mapping[str, Any], optional
        The ``[sweep]`` table: dotted key or short name -> its values, ``{"rule": ["mean",
        Krum(f=2)], "attack": ["none", "sign-flip"], "f": [2], "seeds": range(3)}``. Entries replace
        those of the file; None removes one.
    overrides : Mapping[str, Any], optional
        Settings that replace those of the experiment in all cells, as of ``run``.
    out : str or Path, optional
        The directory, new or empty; a new one in ``runs/`` if not given.
    resume : str or Path, optional
        Go on with the sweep in this directory, or begin it if there is none in it. Finished cells
        are kept.
    jobs : int, default=1
        Number of cells that run at once, each in a process of its own if > 1 (engine inline).
    progress : bool, default=False
        Show the cells as they run. Otherwise nothing but warnings is printed.
    report : bool, default=True
        Draw ``report.html`` and the figures at once, and the page while cells finish.
    **settings : Any
        Further settings of all cells, as of ``run``.

    Returns
    -------
    SweepResult
        Its data frames, runs, report and figure.

    Raises
    ------
    ConfigError
        If an axis or a setting is wrong (the message names it), data is missing, or the directory
        cannot be used. Nothing has been run then.

    Examples
    --------
    >>> import hqde_fl
    >>> axes = {"rule": ["mean", "median"], "seeds": [1, 2, 3]}
    >>> result = hqde_fl.sweep("experiments/quickstart.toml", axes, engine="inline", jobs=2)
    >>> result.results.groupby("rule")["accuracy"].mean()
    """
    from rich.console import Console

    from hqde_fl.simulations.recording.file_names import INDEX
    from hqde_fl.simulations.sweep.cells import Sweep
    from hqde_fl.simulations.sweep.progress import SweepProgress
    from hqde_fl.simulations.sweep.runner import run_sweep

    _require_one(out, resume)
    read = _read({} if experiment is None else experiment).with_settings(overrides or {}, settings)
    table = {**_axes(read.document.get("sweep", {})), **_axes(axes or {})}
    read.document["sweep"] = {
        key: to_toml(value, read.objects, key) for key, value in table.items() if value is not None
    }
    with read.names():
        plan = Sweep.parse(read.document, read.name)
    with _directory(out, resume, plan.name) as directory, quiet_flower(), ExitStack() as stack:
        watch = stack.enter_context(SweepProgress(Console(), plan)) if progress else None
        going_on = resume is not None and (directory / INDEX).exists()
        comparison = run_sweep(
            plan, directory, jobs=jobs, resume=going_on, watch=watch, report=report
        )
    result = SweepResult(directory.resolve(), {cell.key: cell.experiment for cell in plan.cells})
    vars(result)["comparison"] = comparison  # which has been read already
    if errors := [row.error for row in comparison.rows if row.error]:
        text = f"{len(errors)} of {len(comparison.rows)} cells failed: {errors[0]}"
        warnings.warn(text, stacklevel=2)
    return result


def _require_one(out: str | PathLike[str] | None, resume: str | PathLike[str] | None) -> None:
    if out is not None and resume is not None:
        raise ConfigError("resume goes on in its own directory: leave out `out`")


@contextmanager
def _directory(
    out: str | PathLike[str] | None, resume: str | PathLike[str] | None, name: str
) -> Iterator[Path]:
    """Yield the directory to write to: a given one, or a new one that is removed if it stays empty.

    A new one is ``runs/NAME-TIME``, with a number if several begin in the same second.
    """
    if (given := resume if out is None else out) is not None:
        yield Path(given)
        return
    first = default_directory(name)
    for number in itertools.count(1):
        path = first if number == 1 else first.with_name(f"{first.name}-{number}")
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    try:
        yield path.resolve()
    finally:
        with suppress(OSError):
            path.rmdir()  # nothing was run


@dataclass(frozen=True)
class _Read:
    """The experiment that an argument ``experiment`` stands for.

    Parameters
    ----------
    document : dict[str, Any]
        The content of a file with this experiment.
    objects : dict[str, Any]
        The objects in it that no file can name, by the names that stand for them.
    name : str
        What it is called in error messages.
    folder : str or None
        The folder of its file.
    """

    document: dict[str, Any]
    objects: dict[str, Any] = field(default_factory=dict)
    name: str = "the experiment"
    folder: str | None = None

    def with_settings(self, *settings: Mapping[str, Any]) -> _Read:
        """Return the same with all settings applied in order."""
        document, objects = self.document, dict(self.objects)
        for some in settings:
            document = with_settings(document, some, Experiment.defaults(), objects)
        return replace(self, document=document, objects=objects)

    @contextmanager
    def names(self) -> Iterator[None]:
        """Let the names in the document stand for their objects, while the block checks it."""
        with given_objects(self.objects), searched_first(self.folder):
            yield


def _experiment(
    source: Source | None,
    settings: Sequence[Mapping[str, Any]],
    resume: str | PathLike[str] | None,
) -> Experiment:
    """Return the experiment with all settings applied in order."""
    if isinstance(source, Experiment) and not any(settings):
        return source
    if source is None and resume is not None:
        from hqde_fl.simulations.checkpoint.resume import stored_experiment, stored_folders

        add_folder_of(None, stored_folders(Path(resume)))
        read = _Read(dict(stored_experiment(Path(resume))))
    else:
        read = _read({} if source is None else source)
        if "sweep" in read.document:
            raise ConfigError(f"{read.name} has a [sweep] table: run it with hqde_fl.sweep")
    read = read.with_settings(*settings)
    with read.names():
        return Experiment.parse(read.document)


def _read(source: Source) -> _Read:
    if isinstance(source, Experiment):
        document = source.to_table()
        if source.checkpoint == CheckpointSection():
            del document["checkpoint"]  # cells of a sweep need none
        if source.monitor == MonitorSection():
            del document["monitor"]
        return _Read(document, dict(source.objects), folder=source.folder)
    if isinstance(source, Mapping):
        settings, objects = dict(source), dict[str, Any]()
        axes = settings.pop("sweep", None)
        document = with_settings({}, settings, Experiment.defaults(), objects)
        return _Read(document if axes is None else {**document, "sweep": axes}, objects)
    if isinstance(source, str | PathLike):
        path = experiment_file_of(source)
        add_folder_of(path)
        document = {"name": name_of(path), **read_toml(path)}
        return _Read(document, name=str(path), folder=str(path.absolute().parent))
    raise ConfigError(f"an experiment is a file, settings or an Experiment, found {source!r}")


def _axes(axes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``[sweep]`` table with its keys as a file would have them."""
    if not isinstance(axes, Mapping):
        raise ConfigError(f"axes need to be a dict of lists of values, found {axes!r}")
    # the name of a variable stays as it is; no key of an experiment without a dot has a "-"
    keys = {key: str(key).replace("_", "-") if "." in str(key) else str(key) for key in axes}
    return {keys[key]: value for key, value in axes.items()}


@contextmanager
def _shown_rounds(experiment: Experiment, shown: bool) -> Iterator[Callable[..., None] | None]:
    if not shown:
        yield None
        return
    from rich.console import Console

    with console_progress(experiment.rounds, Console(), experiment.name) as on_round:
        yield on_round
