"""Draw what ``hqde-fl top`` shows of a run."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
from rich import filesize
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hqde_fl.monitor.schema import Gpu, Host, ResourceSample
from hqde_fl.simulations.console.durations import duration_text
from hqde_fl.simulations.recording.live_run import InFlight, LiveRun
from hqde_fl.strategies.outcomes import KEPT, NOT_KEPT
from hqde_fl.terminal_text import printable

SLOW = 2.0
"""A client is a straggler from this multiple of its usual time on."""

SILENT_SECONDS = 10.0
"""Time without a record after which a process may be looked for, or a host be called silent."""

BARS = " ▁▂▃▄▅▆▇█"
MAX_SPARKS = 24
STATUS_STYLES = {"finished": "green", "failed": "red", "interrupted": "yellow", "lost": "red"}
DIM = "dim"


@dataclass(frozen=True)
class Room:
    """The room that a view has.

    Parameters
    ----------
    width : int
        Columns.
    height : int or None
        Lines; None for as many as are needed.
    ascii_only : bool, default=False
        True if the terminal has no block characters.
    """

    width: int
    height: int | None = None
    ascii_only: bool = False


@dataclass(frozen=True)
class _Column:
    """A column of a table, which is left out if the terminal is too narrow for it."""

    title: str
    cells: Sequence[Text | str]
    right: bool = True

    @property
    def width(self) -> int:
        """The widest of its cells."""
        return max(len(cell) for cell in (self.title, *self.cells))


def is_lost(run: LiveRun, now: float) -> bool:
    """Return True if a run's process has ended without a word, as ``kill -9`` ends it.

    That is known only on the host that the process ran on, and only if the run is monitored.
    """
    start = run.start
    return (
        run.status == "running"
        and start is not None
        and start.host == socket.gethostname()
        and now - run.seen > SILENT_SECONDS
        and not psutil.pid_exists(start.pid)
    )


def view(run: LiveRun, now: float, room: Room) -> RenderableType:
    """Return everything that is shown of a run.

    Parameters
    ----------
    run : LiveRun
        The run.
    now : float
        The present time, in seconds since the epoch.
    room : Room
        The room for it.
    """
    if run.manifest is None:
        return Text(f"waiting for a run in {_safe(str(run.path))}", style=DIM)
    head = [_title(run, now), *_notices(run, now), *_progress(run, now, room)]
    head += [*_metrics(run, room), *_rounds(run)]
    if room.height is None:  # what is printed once need not fit into a screen
        for line in head:
            if isinstance(line, Text):
                line.no_wrap, line.overflow = False, "fold"
    tables = [_flying(run, now), _problems(run, room), _hosts(run, now, room)]
    rows = _fair_rows([len(table.rows) for table in tables], room, used=len(head))
    parts: list[RenderableType] = list(head)
    for table, most in zip(tables, rows, strict=True):
        parts += table.lines(most, room)
    return Group(*parts)


@dataclass(frozen=True)
class _Section:
    """A heading and a table; only the heading if there are no rows."""

    heading: Text
    columns: tuple[_Column, ...]

    @property
    def rows(self) -> range:
        """The indices of all rows."""
        return range(len(self.columns[0].cells) if self.columns else 0)

    def lines(self, most: int, room: Room) -> list[RenderableType]:
        """Return the heading and at most ``most`` rows, with the columns that fit."""
        if not self.heading:
            return []
        parts: list[RenderableType] = [Text(), self.heading]
        if not self.rows or most <= 0:
            return parts
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style=DIM)
        shown: list[_Column] = []
        used = 0
        for column in self.columns:
            if shown and used + column.width + 2 > room.width:
                break
            shown.append(column)
            used += column.width + 2
        for column in shown:
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
            )
        for index in self.rows[:most]:
            table.add_row(*(_text(column.cells[index]) for column in shown))
        parts.append(table)
        if more := len(self.rows) - most:
            parts += [Text(f"and {more} more", style=DIM)] if more > 0 else []
        return parts


def _fair_rows(counts: Sequence[int], room: Room, used: int) -> list[int]:
    """Return how many rows of each table are shown: those of short ones first."""
    if room.height is None:
        return [min(count, 20) for count in counts]
    left = room.height - used - sum(2 + 2 * (count > 0) for count in counts)
    rows = [0] * len(counts)
    for place, index in enumerate(sorted(range(len(counts)), key=lambda index: counts[index])):
        rows[index] = max(0, min(counts[index], left // (len(counts) - place)))
        left -= rows[index]
    return rows


def _title(run: LiveRun, now: float) -> Text:
    assert run.manifest is not None
    status = "lost" if is_lost(run, now) else run.status
    text = Text(_safe(str(run.manifest["name"])), style="bold", overflow="ellipsis", no_wrap=True)
    text.append("  ")
    text.append(status, style=STATUS_STYLES.get(status, "cyan"))
    if (begun := _time(run.manifest.get("started"))) is not None:
        ended = _time(run.manifest.get("ended"))
        since = f" after {duration_text(ended - begun)}" if ended else ""
        text.append(since or f" for {duration_text(max(0.0, now - begun))}", style=DIM)
    text.append(f"  engine {_safe(str(run.manifest.get('engine', '?')))}", style=DIM)
    text.append(f", seed {run.manifest.get('seed', '?')}", style=DIM)
    if resumed := len(run.manifest.get("resumed") or ()):
        text.append(f", resumed {resumed} x", style=DIM)
    if run.status == "running":
        for name, place in (run.manifest.get("published-at") or {}).items():
            text.append(f", {_safe(name)} at {_safe(str(place))}", style=DIM)
    return text


def _notices(run: LiveRun, now: float) -> list[RenderableType]:
    """Return lines about how the run ended, if it did not end well."""
    lines: list[RenderableType] = []
    if is_lost(run, now):
        text = "its process is gone: go on with hqde-fl run --resume DIR"
        lines.append(_one_line(Text(text, style="red")))
    if run.manifest and (error := run.manifest.get("error")):
        lines.append(_one_line(Text(_safe(str(error)), style="red")))
    return lines


def _progress(run: LiveRun, now: float, room: Room) -> list[RenderableType]:
    total = max(run.rounds, run.round)
    label = f"round {run.round} of {total}"
    each = run.round_seconds
    left = ""
    if each is not None:
        left = f"{_seconds(each)} a round"
        if run.status == "running" and not is_lost(run, now):
            left += f", about {duration_text(each * (total - run.round))} left"
    width = min(40, room.width - len(label) - len(left) - 4)
    if width < 8 or room.ascii_only:
        return [_one_line(Text(f"{label}  {left}".rstrip()))]
    grid = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total=max(1, total), completed=run.round, width=width)
    grid.add_row(Text(label), bar, Text(left, style=DIM))
    return [grid]


def _metrics(run: LiveRun, room: Room) -> list[RenderableType]:
    """Return one line with the server's metrics, or those of the clients if it has none."""
    text = Text(no_wrap=True, overflow="ellipsis")
    objective = run.objective
    names = sorted(run.metrics, key=lambda name: (name != objective.primary, name))
    for name in names:
        values = run.metrics[name]
        text.append(f"{_safe(name)} ")
        text.append(_metric((run.last or {}).get("server", {}).get(name)), style="bold")
        if name == objective.primary:
            if not room.ascii_only and len(values) > 1:
                text.append(f" {sparkline(values)}", style="cyan")
            best = max(values) if objective.higher_is_better() else min(values)
            text.append(f" best {_metric(best)}", style=DIM)
        text.append("  ")
    if not names and run.last:
        reported = {**run.last.get("clients-train", {}), **run.last.get("clients-evaluate", {})}
        for name, value in sorted(reported.items()):
            if not name.endswith("seconds"):
                text.append(f"{_safe(name)} ")
                text.append(f"{_metric(value)}  ", style="bold")
    return [text] if text else []


def _rounds(run: LiveRun) -> list[RenderableType]:
    """Return lines about the last round, and about what the latest rounds took time for."""
    lines: list[RenderableType] = []
    if run.last and run.round:
        last = run.last
        text = Text(f"round {run.round}: kept {last.get(KEPT, 0)} of {last.get('asked', 0)}")
        for name in NOT_KEPT:
            if last.get(name):
                text.append(f", {name} {last[name]}")
        down, up = (filesize.decimal(last.get(f"bytes-{way}") or 0) for way in ("down", "up"))
        text.append(f"; {down} to the clients, {up} from them", style=DIM)
        if last.get("note"):
            text.append(f"; model kept: {_safe(str(last['note']))}", style="yellow")
        lines.append(_one_line(text))
    elif run.status == "running":
        lines.append(_one_line(Text("no round has ended yet", style=DIM)))
    phases = run.phases
    if (total := sum(phases.values())) > 0:
        parts = [f"{name} {100 * value / total:.0f} %" for name, value in phases.items()]
        lines.append(_one_line(Text(f"time of a round: {', '.join(parts)}", style=DIM)))
    return lines


def _flying(run: LiveRun, now: float) -> _Section:
    if not run.monitored:
        hint = "clients in flight and resources are not recorded: the run has no monitor"
        return _Section(Text(hint, style=DIM), ())
    flying = run.in_flight(now)
    if not flying:
        return _Section(Text("no client in flight", style=DIM), ())
    slow = sum(one.slowness >= SLOW for one in flying)
    heading = Text(f"round {run.current_round}: {_count(len(flying), 'client')} in flight")
    if slow:
        heading.append(f", {_count(slow, 'straggler')}", style="yellow")
    columns = (
        _Column("client", [str(one.client) for one in flying]),
        _Column("in flight", [_styled(_seconds(one.seconds), one) for one in flying]),
        _Column("usual", [_seconds(one.usual) for one in flying]),
        _Column("times", [f"{one.slowness:.1f} x" if one.usual else "?" for one in flying]),
        _Column("task", [one.task for one in flying], right=False),
    )
    return _Section(heading, columns)


def _problems(run: LiveRun, room: Room) -> _Section:
    counts = run.counts
    problems = run.problems
    parts = [f"{name} {counts[name]}" for name in NOT_KEPT if counts[name]]
    if not parts and not problems:
        return _Section(Text("every update was kept" if run.round else "", style=DIM), ())
    heading = Text(f"of {counts['asked']} updates {counts[KEPT]} kept")
    heading.append(f", {', '.join(parts)}" if parts else "")
    reasons = [_shortened(problem.reason, max(20, room.width - 17)) for problem in problems]
    columns = (
        _Column("round", [str(problem.round) for problem in problems]),
        _Column("client", [str(problem.client) for problem in problems]),
        _Column("what happened", reasons, right=False),
    )
    return _Section(_one_line(heading), columns if problems else ())


def _hosts(run: LiveRun, now: float, room: Room) -> _Section:
    driver = run.start.host if run.start else None
    samples = sorted(run.samples.values(), key=lambda sample: (sample.host != driver, sample.host))
    if not samples:
        return _Section(Text(), ())
    live = run.status == "running" and run.stop is None
    hosts = [run.hosts.get(sample.host) for sample in samples]
    both = list(zip(samples, hosts, strict=True))
    names = [_safe(sample.host)[: max(8, room.width // 4)] for sample in samples]
    columns = [
        _Column("node", names, right=False),
        _Column("run's CPU", [f"{sample.cpu:.1f}" for sample in samples]),
        _Column("run's memory", [filesize.decimal(sample.memory) for sample in samples]),
        _Column("node's CPU", [_host_cpu(sample, host) for sample, host in both]),
        _Column("node's memory", [_host_memory(sample, host) for sample, host in both]),
    ]
    if any(sample.gpus for sample in samples):
        columns.append(_Column("GPU", [_gpu_use(sample.gpus) for sample in samples]))
        columns.append(_Column("GPU memory", [_gpu_memory(sample.gpus) for sample in samples]))
    columns += [
        _Column("net in", [_rate(sample.received) for sample in samples]),
        _Column("net out", [_rate(sample.sent) for sample in samples]),
        _Column("read", [_rate(sample.read) for sample in samples]),
        _Column("written", [_rate(sample.written) for sample in samples]),
    ]
    if live and any(now - sample.time > SILENT_SECONDS for sample in samples):
        ages = [_age(now - sample.time) for sample in samples]
        columns.insert(1, _Column("silent", ages))
    return _Section(Text(_count(len(samples), "node")), tuple(columns))


def sparkline(values: Sequence[float]) -> str:
    """Return the latest values as block characters between their least and greatest."""
    shown = list(values)[-MAX_SPARKS:]
    low, high = min(shown), max(shown)
    steps = len(BARS) - 2
    scale = steps / (high - low) if high > low else 0.0
    return "".join(BARS[1 + round((value - low) * scale)] for value in shown)


def _shortened(text: str, most: int) -> str:
    text = _safe(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 3] + "..."


def _styled(text: str, one: InFlight) -> Text:
    return Text(text, style="yellow" if one.slowness >= SLOW else "")


def _host_cpu(sample: ResourceSample, host: Host | None) -> str:
    if sample.host_cpu is None:
        return "?"
    return f"{sample.host_cpu:.1f}" + (f" of {host.cores}" if host else "")


def _host_memory(sample: ResourceSample, host: Host | None) -> str:
    if sample.host_memory is None:
        return "?"
    used = filesize.decimal(sample.host_memory)
    return f"{used} of {filesize.decimal(host.memory)}" if host else used


def _gpu_use(gpus: Sequence[Gpu]) -> str:
    known = [gpu.utilisation for gpu in gpus if gpu.utilisation is not None]
    if not known:
        return "?" if gpus else "-"
    return "/".join(f"{100 * use:.0f}" for use in known) + " %"


def _gpu_memory(gpus: Sequence[Gpu]) -> str:
    known = [gpu.memory for gpu in gpus if gpu.memory is not None]
    return filesize.decimal(sum(known)) if known else "-"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{filesize.decimal(round(value))}/s"


def _age(seconds: float) -> str:
    return duration_text(seconds) if seconds > SILENT_SECONDS else ""


def _metric(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.1f} s" if seconds < 90 else duration_text(seconds)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _text(cell: Text | str) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def _safe(text: str) -> str:
    return printable(text, 500)


def _time(stamp: object) -> float | None:
    """Return a manifest's time in seconds since the epoch, or None."""
    try:
        time = datetime.fromisoformat(str(stamp))
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
