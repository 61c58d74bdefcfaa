"""The command ``hqde-fl``."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from hqde_fl.errors import ConfigError, HQDEError, UnknownNameError
from hqde_fl.simulations.console.interruption import (
    Terminated,
    exit_status,
    interrupted_by,
    interruptible,
)
from hqde_fl.simulations.deploy.commands import app as nodes

if TYPE_CHECKING:
    from hqde_fl.registry import Registry
    from hqde_fl.simulations.experiment.experiment import Experiment


class Commands(TyperGroup):
    """Commands whose errors are one line on stderr and an exit status, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit with 2 if its input is wrong, with 1 if it fails.

        After a signal the exit status is 128 more than its number. An error of the pipe that stdout
        is written to is raised.
        """
        try:
            return super().invoke(ctx)
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

File = Annotated[Path, typer.Argument(metavar="FILE", help="The experiment, a TOML file.")]
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
    typer.Argument(metavar="FILE", help="The experiment, a TOML file; not needed to resume."),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Go on with this run, or begin it if the directory is empty."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, run nothing.")]


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
) -> None:
    """Run one experiment."""
    from hqde_fl.simulations.checkpoint.resume import given_or_stored, stored_folders
    from hqde_fl.simulations.console.progress import progress
    from hqde_fl.simulations.experiment.own_modules import add_folder_of
    from hqde_fl.simulations.recording.file_names import REPORT
    from hqde_fl.simulations.run import run_experiment

    overrides = _overrides(set_, engine, ray_address, seed, data_dir)
    experiment = given_or_stored(file, out, resume, overrides)
    add_folder_of(file, stored_folders(resume))
    console = Console()
    _say(console, _summary(experiment))
    # On the other engines the first round says so, on this terminal.
    if (warning := experiment.parts.warning) and (dry_run or experiment.engine.name == "flower"):
        _complain(f"warning: {warning}")
    if dry_run:
        experiment.checked_task()
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
    final = ", ".join(
        f"{name} {value:.4f}" for name, value in sorted(result.final.items()) if value is not None
    )
    if not (directory / REPORT).exists():
        _say(console, "completed: its run directory is on the SuperLink's host, below runs/")
        return
    if result.void_rounds:
        _say(console, result.void_rounds)
    _say(console, f"final: {final or 'no metrics'}\nreport: {_shown(directory / REPORT)}")


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
) -> None:
    """Run every combination of what a file's [sweep] table lists."""
    from hqde_fl.simulations.experiment.own_modules import add_folder_of
    from hqde_fl.simulations.sweep import Sweep
    from hqde_fl.simulations.sweep.command import newest_directory, run_and_show, show_plan

    add_folder_of(file)
    chosen = Sweep.load(file, _overrides(set_, engine, ray_address, seed, data_dir))
    console = Console()
    if dry_run:
        with _name_what_is_kept(out or Path()):
            show_plan(chosen, console, out, jobs=jobs, resume=resume)
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
    """List what can be named in an experiment: rules, faults, tasks, ..."""
    registries = _registries()
    if what is not None and what not in registries:
        raise UnknownNameError("kind of thing to list", what, registries)
    console = Console()
    for kind, registry in registries.items():
        if what in (None, kind):
            table = Table(title=kind, title_justify="left", title_style="bold", box=None)
            table.add_column(no_wrap=True)
            table.add_column()
            for name in sorted(registry):
                text = Text(registry.summary(name))
                if parameters := _parameters(registry, name):
                    text.append(f"\n{parameters}", style="dim")
                table.add_row(name, text)
            table.show_header = False
            console.print(table)


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
) -> None:
    """Draw report.html again."""
    from hqde_fl.simulations.recording.comparison import Comparison
    from hqde_fl.simulations.report import write_report

    with interruptible():
        path = write_report(Comparison.load(directory), directory)
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


def _version() -> str:
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

    The message names the directory if it exists.
    """
    from hqde_fl.simulations.console.progress import quiet_flower

    try:
        with interruptible(), quiet_flower():
            yield
    except (KeyboardInterrupt, Terminated) as end:
        kept = f", kept in {_shown(directory)}" if directory.exists() else ""
        _complain(f"interrupted{kept}")
        raise typer.Exit(_status(end)) from None


def _status(end: KeyboardInterrupt | Terminated) -> int:
    """Return the exit status after a signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return end.status if isinstance(end, Terminated) else exit_status(interrupted_by())


def _summary(experiment: Experiment) -> str:
    """Return lines with an experiment's task, clients, rule, codec (unless identity) and faults."""
    from hqde_fl.simulations.experiment.display_names import component_label, faults_label

    clients = experiment.clients
    faulty = ", ".join(str(client) for client in sorted(experiment.faulty))
    lines = [
        f"{experiment.name}: {component_label(experiment.task)}, {clients.count} clients, "
        f"{component_label(clients.partition)}, {experiment.rounds} rounds, "
        f"seed {experiment.seed}, engine {experiment.engine.name}",
        f"rule: {component_label(experiment.strategy.rule)}",
        f"faults: {faults_label(experiment.faults)}" + (f", clients {faulty}" if faulty else ""),
    ]
    if experiment.strategy.codec["name"] != "identity":
        lines.insert(2, f"codec: {component_label(experiment.strategy.codec)}")
    return "\n".join(lines)


def _registries() -> dict[str, Registry[Any]]:
    from hqde_fl.clients.faults import FAULTS
    from hqde_fl.codec import CODECS
    from hqde_fl.rules import RULES
    from hqde_fl.simulations.attacks import ATTACKS
    from hqde_fl.simulations.tasks import PARTITIONERS, TASKS
    from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS

    return {
        "rules": RULES,
        "codecs": CODECS,
        "faults": FAULTS,
        "attacks": ATTACKS,
        "tasks": TASKS,
        "partitioners": PARTITIONERS,
        "server-optimizers": SERVER_OPTIMIZERS,
    }


def _parameters(registry: Registry[Any], name: str) -> str:
    """Return the parameters of a registry's entry as text, ``f, weighted=false``; "" for none."""
    return ", ".join(
        key if default is ... else f"{key}={_default_text(default)}"
        for key, default in registry.parameters(name).items()
    )


def _default_text(default: Any) -> str:
    if isinstance(default, bool | str):
        return json.dumps(default)
    if isinstance(default, float):
        return f"{default:.4g}"
    return type(default).__name__ if is_dataclass(default) else str(default)


def _shown(path: Path) -> str:
    """Return a path as text: relative if it is below the working directory, else absolute."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _complain(text: str) -> None:
    typer.echo(text, err=True)
