"""The command ``hqde-fl``."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from hqde_fl.errors import ConfigError, HQDEError, RunError
from hqde_fl.own_modules import own_code
from hqde_fl.simulations.attack_search.command import attack_search
from hqde_fl.simulations.console.fetch import fetch
from hqde_fl.simulations.console.interruption import (
    Terminated,
    exit_status,
    interrupted_by,
    interruptible,
)
from hqde_fl.simulations.console.option_hints import unknown_option, with_plain_help
from hqde_fl.simulations.console.top import top
from hqde_fl.simulations.deploy.commands import app as nodes
from hqde_fl.simulations.tour.command import tour
from hqde_fl.simulations.verification.commands import replay, verify

if TYPE_CHECKING:
    from hqde_fl.simulations.experiment.experiment import Experiment


class Commands(TyperGroup):
    """Commands whose errors are one line on stderr and an exit status, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit with 2 if its input is wrong, with 1 if it fails.

        After a signal the exit status is 128 more than its number. An error of the pipe that stdout
        is written to is raised.
        """
        try:
            with own_code("your code"):
                return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise unknown_option(error) from None
        except HQDEError as error:
            _complain(f"error: {' '.join(str(error).split())}")
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of stdout has ended, as `head` does
                raise
            about = "" if error.filename is None else f"{error.filename}: "
            _complain(f"error: {about}{error.strerror or error!r}")
            raise typer.Exit(1) from None
        except (KeyboardInterrupt, Terminated) as end:
            _complain("interrupted")
            raise typer.Exit(_status(end)) from None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, whose help has no escaped brackets."""
        return with_plain_help(super().get_command(ctx, cmd_name))


app = typer.Typer(
    cls=Commands,
    name="hqde-fl",
    help="Robust federated learning: run experiments, compare them, look at what happened.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

app.add_typer(nodes)

File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The experiment: a TOML file, or a name like quickstart."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key; may be repeated."),
]
Engine = Annotated[str | None, typer.Option(help="Where to run it: ray, inline or flower.")]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Join this Ray cluster; default RAY_ADDRESS."),
]
Seed = Annotated[int | None, typer.Option(help="The root of all randomness.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A new or empty directory; default runs/NAME-TIME."),
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the task's files are.")]
MaybeFile = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="The experiment: a TOML file, or a name like quickstart."),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Go on with this run, or begin it if the directory is empty."),
]
Interval = Annotated[
    str | None,
    typer.Option(
        metavar="t|bootstrap",
        help="Kind of 95 % intervals over the seeds; results.tex and .md have them in place of ±.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, run nothing.")]
Strict = Annotated[bool, typer.Option("--strict", help="Take warnings for errors.")]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Robust federated learning: run experiments, compare them, look at what happened."""
    if version:
        typer.echo(f"hqde-fl {_version()}")
        raise typer.Exit


@app.command()
def run(
    file: MaybeFile = None,
    set_: Set = None,
    engine: Engine = None,
    ray_address: RayAddress = None,
    seed: Seed = None,
    out: Out = None,
    resume: Resume = None,
    data_dir: DataDir = None,
    superlink: Annotated[
        str | None,
        typer.Option(metavar="DIR|NAME", help="With --engine flower: run on these real nodes."),
    ] = None,
    dry_run: DryRun = False,
    strict: Strict = False,
) -> None:
    """Run one experiment."""
    from hqde_fl.simulations.checkpoint.resume import given_or_stored, stored_folders
    from hqde_fl.simulations.console.progress import progress
    from hqde_fl.simulations.experiment.hierarchy import HierarchyBound, bound_text
    from hqde_fl.simulations.experiment.own_modules import add_folder_of
    from hqde_fl.simulations.experiment.warnings import require_none, warnings_of
    from hqde_fl.simulations.recording.file_names import REPORT, ROUNDS
    from hqde_fl.simulations.run import check_resources, run_experiment

    overrides = _overrides(set_, engine, ray_address, seed, data_dir)
    add_folder_of(file, stored_folders(resume))
    experiment = given_or_stored(file, out, resume, overrides)
    console = Console()
    _say(console, _summary(experiment))
    if (bound := HierarchyBound.of(experiment.parts)) is not None:
        _say(console, f"hierarchy: {bound_text(bound.to_table())}")
    warnings = warnings_of(experiment)
    if strict:
        require_none(warnings)
    # On the other engines the first round says so, on this terminal.
    logged = not dry_run and experiment.engine.name != "flower"
    for warning in warnings:
        if not (logged and warning == experiment.parts.warning):
            _complain(f"warning: {warning}")
    if dry_run:
        experiment.check_nodes(real_nodes=bool(superlink))
        if not superlink:
            check_resources(experiment)
        task = experiment.checked_task(test=not superlink, clients=not superlink)
        from hqde_fl.simulations.console.cost import cost_text

        _say(console, cost_text(experiment, task))
        return
    directory = resume or _directory(out, experiment.name)
    with (
        _name_what_is_kept(directory),
        progress(experiment.rounds, console, experiment.name) as on_round,
    ):
        result = run_experiment(
            experiment,
            directory,
            on_round=on_round,
            superlink=superlink or "",
            resume=resume is not None,
        )
    if not (directory / ROUNDS).exists():
        place = (
            "below runs/ of the folder in which the SuperLink runs (of a unit: /var/lib/hqde-fl)"
        )
        fetch_it = f"`hqde-fl fetch --superlink {superlink}` brings it here"
        _say(
            console, f"completed: its run directory is on the SuperLink's host, {place}; {fetch_it}"
        )
        return
    if result.void_rounds:
        _say(console, result.void_rounds)
    _say(console, f"final: {_final(directory)}")
    if (directory / REPORT).exists():
        _say(console, f"report: {_shown(directory / REPORT)}")


@app.command()
def sweep(
    file: File,
    set_: Set = None,
    engine: Engine = None,
    ray_address: RayAddress = None,
    seed: Seed = None,
    out: Out = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    jobs: Annotated[
        int, typer.Option(metavar="N", help="Cells at once, in processes (engine inline).")
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out, or in the newest run of this name.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="With --dry-run: time a few rounds of some cells.")
    ] = False,
    interval: Interval = None,
    strict: Strict = False,
) -> None:
    """Run every combination of what a file's [sweep] table lists."""
    from hqde_fl.simulations.experiment.own_modules import add_folder_of
    from hqde_fl.simulations.experiment.warnings import require_none
    from hqde_fl.simulations.sweep import Sweep
    from hqde_fl.simulations.sweep.command import (
        newest_directory,
        run_and_show,
        show_plan,
        warnings_in,
    )

    add_folder_of(file)
    overrides = _overrides(set_, engine, ray_address, seed, data_dir)
    if interval is not None:
        overrides.append(f"sweep.interval={json.dumps(interval)}")
    chosen = Sweep.load(file, overrides)
    console = Console()
    warnings = warnings_in(chosen)
    if strict:
        require_none(warnings)
    for warning in warnings:
        _complain(f"warning: {warning}")
    if dry_run:
        with _name_what_is_kept(out or Path()):
            show_plan(chosen, console, out, jobs=jobs, resume=resume, probe=probe)
        return
    directory = (
        newest_directory(chosen.name) if resume and out is None else _directory(out, chosen.name)
    )
    with _name_what_is_kept(directory):
        comparison = run_and_show(chosen, directory, console, jobs=jobs, resume=resume)
    if any(row.error for row in comparison.rows):
        raise typer.Exit(1)


@app.command("list")
def list_(
    what: Annotated[str | None, typer.Argument(metavar="[WHAT]", help="One kind only.")] = None,
) -> None:
    """List what an experiment can name: rules, faults, metrics, ..., and every key of its file."""
    from hqde_fl.simulations.console.listing import show_list

    show_list(Console(), what)


@app.command("explain")
def explain_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A part, a key, or FILE.py:Class.")],
) -> None:
    """Explain a name: what it is, its parameters, and where a file has it."""
    from hqde_fl.simulations.console.listing import explain

    _say(Console(), explain(name).rstrip())


@app.command()
def reference() -> None:
    """Print the reference of an experiment's file, as Markdown: every key and every part."""
    from hqde_fl.simulations.console import reference

    typer.echo(reference.reference(), nl=False)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
) -> None:
    """Write a small project: own task, rule and attack, an experiment, a sweep, a test."""
    from hqde_fl.simulations.console.new_project import write_project

    for line in write_project(directory):
        _say(Console(), line)


@app.command()
def doctor(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Say what its clients would get.")
    ] = None,
    ray_address: RayAddress = None,
) -> None:
    """Show what experiments can run on: CPUs, GPUs, memory, Ray, versions."""
    from hqde_fl.simulations.console.doctor import examine
    from hqde_fl.simulations.experiment.experiment import Experiment
    from hqde_fl.simulations.experiment.own_modules import add_folder_of

    console = Console()
    add_folder_of(file)
    experiment = None if file is None else Experiment.load(file)
    with interruptible():
        for what, finding in examine(experiment, ray_address or ""):
            _say(console, f"{what:<16}{finding}")


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Of a run or a sweep.")],
    interval: Interval = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare a sweep's runs by this metric.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="AXIS", help="Compare the values of this axis.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Compare them with this one.")
    ] = None,
) -> None:
    """Draw report.html, figures and tables again; options are as in [sweep]."""
    from hqde_fl.simulations.recording.comparison import Comparison
    from hqde_fl.simulations.report import write_report

    with interruptible():
        settings = {"interval": interval, "metric": metric, "compare": compare}
        settings["baseline"] = baseline
        changes = {name: value for name, value in settings.items() if value is not None}
        path = write_report(Comparison.load(directory, changes), directory)
    _say(Console(), f"report: {_shown(path)}")


@app.command()
def audit(
    strategies: Annotated[
        list[str],
        typer.Argument(metavar="STRATEGY...", help="A preset, a stock strategy or module:name."),
    ],
    rows: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only such rows (* and ?); may be repeated."),
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all findings.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    seconds: Annotated[float, typer.Option(help="What one row may take.")] = 60.0,
    memory: Annotated[int, typer.Option(metavar="MIB", help="What one row may allocate.")] = 4096,
) -> None:
    """Try a catalogue of bad replies on strategies; exit status 1 if one does harm."""
    from hqde_fl.simulations.audit.command import run_audit

    with interruptible():
        passed = run_audit(
            strategies,
            rows or (),
            seconds=seconds,
            megabytes=memory,
            json_file=json_,
            markdown=markdown,
        )
    if not passed:
        raise typer.Exit(1)


app.command()(fetch)
app.command()(top)
app.command("attack-search")(attack_search)
app.command()(tour)
app.command()(verify)
app.command()(replay)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("hqde-fl")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _overrides(
    given: Sequence[str] | None,
    engine: str | None,
    ray_address: str | None,
    seed: int | None,
    data_dir: Path | None,
) -> list[str]:
    """Return ``given`` and then each other option that is not None, as ``key=value`` overrides.

    Later ones win, so that ``--seed`` has precedence over ``--set seed=...``.
    """
    overrides = list(given or ())
    if engine is not None:
        overrides.append(f"engine.name={json.dumps(engine)}")
    if ray_address is not None:
        overrides.append(f"engine.address={json.dumps(ray_address)}")
    if seed is not None:
        overrides.append(f"seed={seed}")
    if data_dir is not None:  # absolute: other processes may run elsewhere
        overrides.append(f"task.data-dir={json.dumps(str(data_dir.expanduser().resolve()))}")
    return overrides


def _directory(out: Path | None, name: str) -> Path:
    from hqde_fl.simulations.server_app import default_directory

    return default_directory(name) if out is None else out


@contextmanager
def _name_what_is_kept(directory: Path) -> Iterator[None]:
    """Limit Flower's log to warnings; if a signal ends the block, say so and exit.

    The message names the directory if it exists, and that of an error of the disk how to go on.
    """
    from hqde_fl.simulations.checkpoint.store import DIRECTORY
    from hqde_fl.simulations.console.progress import quiet_flower

    try:
        with interruptible(), quiet_flower():
            yield
    except (KeyboardInterrupt, Terminated) as end:
        kept = f", kept in {_shown(directory)}" if directory.exists() else ""
        _complain(f"interrupted{kept}")
        raise typer.Exit(_status(end)) from None
    except RunError as error:
        if _is_of_disk(error) and any((directory / DIRECTORY).glob("*")):
            raise RunError(
                f"{error}: `hqde-fl run --resume {_shown(directory)}` goes on"
            ) from error
        raise


def _is_of_disk(error: BaseException | None) -> bool:
    """Return True if an error of the operating system caused this one."""
    return error is not None and (isinstance(error, OSError) or _is_of_disk(error.__cause__))


def _status(end: KeyboardInterrupt | Terminated) -> int:
    """Return the exit status after a signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return end.status if isinstance(end, Terminated) else exit_status(interrupted_by())


def _summary(experiment: Experiment) -> str:
    """Return lines with an experiment's task, clients, rule, codec (unless identity) and faults."""
    from hqde_fl.simulations.experiment.display_names import (
        NO_FAULTS,
        component_label,
        faults_label,
    )
    from hqde_fl.simulations.report.number_text import client_list_text

    clients = experiment.clients
    faulty = client_list_text(experiment.faulty)
    own = ":" in str(experiment.task["name"])  # a task that may divide its data by itself
    division = None if own and clients.partition == {"name": "iid"} else clients.partition
    cohort = "whoever is registered" if clients.registered else f"{clients.count} clients"
    acting = faults_label(experiment.faults)
    lines = [
        f"{experiment.name}: {component_label(experiment.task)}, {cohort}, "
        + (f"{component_label(division)}, " if division else "")
        + f"{experiment.rounds} rounds, seed {experiment.seed}, engine {experiment.engine.name}",
        f"rule: {component_label(experiment.strategy.rule)}",
        (acting if acting == NO_FAULTS else f"faults: {acting}")
        + (f", clients {faulty}" if faulty else ""),
    ]
    if (secure := experiment.parts.aggregation.secure_aggregation) is not None:
        text = f"secure aggregation: buckets of {secure.bucket}, threshold {secure.threshold}"
        lines.insert(2, text)
    if experiment.strategy.codec["name"] != "identity":
        lines.insert(2, f"codec: {component_label(experiment.strategy.codec)}")
    return "\n".join(lines)


def _final(directory: Path) -> str:
    """Return a run's final metrics as text: the server's, or else the means of the clients'."""
    from hqde_fl.simulations.recording.recorded_run import NO_METRICS, Run

    run = Run.load(directory)
    text = ", ".join(
        f"{name} {'not finite' if value is None else format(value, '.4f')}"
        for name, value in sorted((run.final or run.clients_final).items())
    )
    if not text:
        return f"no metrics: {NO_METRICS}"
    return text if run.final else f"{text} (means of the clients: the server has no test set)"


def _shown(path: Path) -> str:
    """Return a path as text: relative if it is below the working directory, else absolute."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _complain(text: str) -> None:
    typer.echo(text, err=True)
