"""Compute drawings of phases: stacked bars of the rounds, and the timeline of one round.

The template ``templates/monitor.html.md`` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hqde_fl.monitor.schema import CLIENT_PHASES, PHASES

MAX_BARS = 60
"""Bars at most: each is the mean of as many rounds as are needed."""

MAX_TIMELINE_CLIENTS = 24
"""Clients in a timeline at most: those that were done last."""

WIDTH, HEIGHT, LEFT, TOP = 860.0, 220.0, 64.0, 10.0
BOTTOM, ROW, SERVER_ROW = 36.0, 15.0, 24.0

OTHER = "other"
"""Stands for time of a round that is in none of its phases, and for phases of unknown names."""

KNOWN_PHASES = tuple(dict.fromkeys((*PHASES, *CLIENT_PHASES)))


@dataclass(frozen=True)
class Rectangle:
    """A rectangle in a drawing, in pixels."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    title: str = ""


@dataclass(frozen=True)
class Drawing:
    """Rectangles with labelled axes.

    Parameters
    ----------
    name : str
        Accessible name.
    width, height : float
        In pixels.
    blocks : tuple[Rectangle, ...]
        The rectangles.
    xticks, yticks : tuple[tuple[float, str], ...]
        Places and labels.
    xlabel : str
        The name of the horizontal axis.
    colours : tuple[str, ...]
        The names of the phases that occur, for the legend.
    grid : bool
        Whether lines go from the ticks of the vertical axis, else from those of the horizontal one.
    """

    name: str
    width: float
    height: float
    blocks: tuple[Rectangle, ...]
    xticks: tuple[tuple[float, str], ...]
    yticks: tuple[tuple[float, str], ...]
    xlabel: str
    colours: tuple[str, ...]
    grid: bool = True


@dataclass(frozen=True)
class Timeline:
    """The phases of one round.

    Parameters
    ----------
    title : str
        The heading.
    drawing : Drawing
        The server's row, and those of clients.
    left_out : int
        Clients that are not shown, as they were done earlier than the others.
    """

    title: str
    drawing: Drawing
    left_out: int


def phase_colour(name: str) -> str:
    """Return the class of a phase's colour in the style sheet."""
    return f"ph-{name if name in KNOWN_PHASES else OTHER}"


def round_bars(rounds: pd.DataFrame) -> tuple[Drawing | None, int]:
    """Return the stacked bars of the rounds, and how many rounds a bar is the mean of.

    Parameters
    ----------
    rounds : pandas.DataFrame
        Seconds of each phase (columns) in each round (rows).
    """
    if not len(rounds):
        return None, 1
    per_bar = -(-len(rounds) // MAX_BARS)
    groups = np.arange(len(rounds)) // per_bar
    means = rounds.groupby(groups).mean()
    numbers = pd.Series(rounds.index)
    first, last = numbers.groupby(groups).first(), numbers.groupby(groups).last()
    ticks = axis_ticks(float(means.sum(axis=1).max()))
    scale = HEIGHT / (ticks[-1] or 1.0)
    step = min(64.0, (WIDTH - LEFT) / len(means))
    blocks = []
    for bar, (_, row) in enumerate(means.iterrows()):
        y = TOP + HEIGHT
        which = str(first[bar]) if per_bar == 1 else f"{first[bar]} to {last[bar]}"
        for name, seconds in row.items():
            height = seconds * scale
            if height < 0.1:
                continue
            y -= height
            x, width = LEFT + bar * step + 0.08 * step, 0.84 * step
            title = f"round {which}: {name} {_seconds(seconds)}"
            blocks.append(Rectangle(x, y, width, height, phase_colour(str(name)), title))
    every = max(1, -(-len(means) // 16))
    xticks = tuple(
        (LEFT + (bar + 0.5) * step, str(first[bar])) for bar in range(0, len(means), every)
    )
    yticks = tuple((TOP + HEIGHT - tick * scale, f"{tick:g}") for tick in ticks)
    drawing = Drawing(
        name="seconds of each phase, round by round",
        width=LEFT + step * len(means) + 10,
        height=TOP + HEIGHT + BOTTOM,
        blocks=tuple(blocks),
        xticks=xticks,
        yticks=yticks,
        xlabel="round",
        colours=tuple(map(str, rounds.columns)),
    )
    return drawing, per_bar


def timeline(number: int, title: str, spans: pd.DataFrame) -> Timeline:
    """Return the timeline of a round.

    Parameters
    ----------
    number : int
        The round.
    title : str
        The heading.
    spans : pandas.DataFrame
        All its spans, with ``monitor_data.SPAN_COLUMNS``.
    """
    spans = spans.assign(end=spans["until"].fillna(spans["start"] + spans["seconds"]))
    own, others = spans[spans["client"] == -1], spans[spans["client"] != -1]
    begin = float(spans["start"].min())
    length = max(1e-9, float(spans["end"].max()) - begin)
    ticks = [tick for tick in axis_ticks(length) if tick <= length]
    scale = (WIDTH - LEFT) / length
    blocks = [
        _block(span, begin, scale, TOP, SERVER_ROW - 6)
        for span in own[own["parent"] == "round"].itertuples()
    ]
    ends = others.groupby("client")["end"].max().sort_values(ascending=False, kind="stable")
    clients = list(ends.index[:MAX_TIMELINE_CLIENTS])
    labels = [(TOP + 13, "server")]
    for place, client in enumerate(clients):
        y = TOP + SERVER_ROW + place * ROW
        labels.append((y + 10, str(client % 2**64)))
        blocks += [
            _block(span, begin, scale, y, ROW - 4)
            for span in others[others["client"] == client].sort_values("start").itertuples()
        ]
    shown = {block.title.split(":")[1].split()[0] for block in blocks}
    colours = [name for name in KNOWN_PHASES if name in shown]
    colours += [OTHER] if shown - set(KNOWN_PHASES) else []
    drawing = Drawing(
        name=f"phases of round {number} and of its clients, over time",
        width=WIDTH + 10,
        height=TOP + SERVER_ROW + len(clients) * ROW + BOTTOM,
        blocks=tuple(blocks),
        xticks=tuple((LEFT + tick * scale, f"{tick:g}") for tick in ticks),
        yticks=tuple(labels),
        xlabel="seconds since the round began",
        colours=tuple(colours),
        grid=False,
    )
    return Timeline(title, drawing, max(0, len(ends) - len(clients)))


def _block(span: Any, begin: float, scale: float, y: float, height: float) -> Rectangle:
    """Return a span's rectangle; one that was interrupted by another is as long as both."""
    x = LEFT + (span.start - begin) * scale
    low = span.name == "screen" and not np.isnan(span.until)  # between the replies, while it waits
    who = "server" if span.client == -1 else f"client {span.client % 2**64}"
    return Rectangle(
        x=x,
        y=y + (height * 0.6 if low else 0.0),
        width=max(0.4, (span.end - span.start) * scale),
        height=height * 0.4 if low else height,
        colour=phase_colour(str(span.name)),
        title=f"{who}: {span.name} {_seconds(span.seconds)}",
    )


def axis_ticks(most: float) -> list[float]:
    """Return the labelled places of an axis from 0 to at least ``most``."""
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(nbins=6).tick_values(0.0, max(most, 1e-9))]


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
