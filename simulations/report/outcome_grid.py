"""Compute the layout of a grid of clients and rounds, one cell for a client's outcome in a round.

The template ``templates/outcome_grid.html.md`` draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.strategies.outcomes import KEPT, NOT_KEPT, outcome_of

UNUSED = "unused"
"""Shown for a client that was not kept and has no reason: its round is void."""

SHOWN_OUTCOMES = (KEPT, *NOT_KEPT, UNUSED)

MAX_NAME = 15
"""Characters at most of a client's name beside the grid."""

_LABEL_WIDTH, _BAR_WIDTH, _TOP, _LINE_HEIGHT = 104, 138, 22, 19


@dataclass(frozen=True)
class GridCell:
    """The cell of one client in one round.

    Parameters
    ----------
    x, y, width : float
        Its place and width, in pixels.
    outcome : str
        The client's outcome, one of ``SHOWN_OUTCOMES``.
    opacity : float
        In (0, 1]. A kept client's cell is the more opaque, the more influence it had.
    title : str
        The text shown when the pointer is on the cell.
    marked : bool
        True if the client's fault acts in the round, in a run with sleeping attackers.
    """

    x: float
    y: float
    width: float
    outcome: str
    opacity: float
    title: str
    marked: bool = False


@dataclass(frozen=True)
class GridLine:
    """The line of one client.

    Parameters
    ----------
    y : float
        Its place, in pixels.
    label : str
        The client's partition id, or its node id if that is unknown; the name of a real node.
    fault : str or None
        The name of its fault, or None if the client is honest.
    influence : float
        Its mean influence over the rounds it took part in, of a faulty client over those of them in
        which its fault acts; 0 if there are none.
    """

    y: float
    label: str
    fault: str | None
    influence: float


@dataclass(frozen=True)
class OutcomeGrid:
    """The grid of all clients of a run, the faulty ones first.

    Parameters
    ----------
    width, height : float
        Size of the drawing, in pixels.
    lines : tuple[GridLine, ...]
        The clients.
    cells : tuple[GridCell, ...]
        The cells of all clients.
    ticks : tuple[tuple[float, int], ...]
        Place and number of each round that is labelled.
    bars : float
        Place where the bars of mean influence begin.
    scale : float
        Length of a bar for an influence of one.
    equal_influence : float
        The influence of a client if all had the same.
    outcomes : tuple[str, ...]
        Those of ``SHOWN_OUTCOMES`` that occur.
    sleeping : bool
        True if a faulty client took part in a round in which its fault did not act.
    """

    width: float
    height: float
    lines: tuple[GridLine, ...]
    cells: tuple[GridCell, ...]
    ticks: tuple[tuple[float, int], ...]
    bars: float
    scale: float
    equal_influence: float
    outcomes: tuple[str, ...]
    sleeping: bool


def outcome_grid(run: Run, room: float) -> OutcomeGrid | None:
    """Return the grid of a run, or None if no client ever took part.

    Parameters
    ----------
    run : Run
        The run.
    room : float
        Width for all its rounds, in pixels. The grid is wider if the cells would be too narrow.
    """
    if not run.clients:
        return None
    keys = sorted(
        {_key(client) for client in run.clients}, key=lambda key: (key not in run.faulty, key)
    )
    rounds = max(int(client["round"]) for client in run.clients)
    step = min(36.0, max(9.0, room / rounds))
    places = {key: _TOP + index * _LINE_HEIGHT for index, key in enumerate(keys)}
    cohort = len(run.clients) / len({client["round"] for client in run.clients})
    influence = _mean_influences(run)
    sleeping = any(not client["fault"] and _key(client) in run.faulty for client in run.clients)
    lines = tuple(
        GridLine(y, shorten(run.sites.get(key, str(key))), run.faulty.get(key), influence[key])
        for key, y in places.items()
    )
    cells = tuple(
        GridCell(
            x=_LABEL_WIDTH + (client["round"] - 1) * step,
            y=places[_key(client)],
            width=step - 2,
            outcome=_shown_outcome(client),
            opacity=min(1.0, 0.25 + 0.5 * (client["influence"] or 0.0) * cohort)
            if client["kept"]
            else 1.0,
            title=_title(client, run.faulty.get(_key(client)), run.sites.get(_key(client))),
            marked=sleeping and bool(client["fault"]),
        )
        for client in run.clients
    )
    every = next(k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if step * k >= 26)
    labelled = [n for n in range(1, rounds + 1) if n % every == 0 or (n == 1 and every != 2)]
    bars = _LABEL_WIDTH + rounds * step + 14
    return OutcomeGrid(
        width=bars + _BAR_WIDTH,
        height=_TOP + len(keys) * _LINE_HEIGHT + 4,
        lines=lines,
        cells=cells,
        ticks=tuple((_LABEL_WIDTH + (number - 0.5) * step - 1, number) for number in labelled),
        bars=bars,
        scale=90 / max(*influence.values(), 1 / cohort, 1e-9),
        equal_influence=1 / cohort,
        outcomes=tuple(
            outcome for outcome in SHOWN_OUTCOMES if any(cell.outcome == outcome for cell in cells)
        ),
        sleeping=sleeping,
    )


def shorten(name: str) -> str:
    """Return a name that has room beside the grid: its end is left out if it is long."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _shown_outcome(client: Mapping[str, Any]) -> str:
    """Return a client's outcome from its line of ``clients.jsonl``; ``UNUSED`` if it has none."""
    if client["kept"]:
        return KEPT
    outcome = outcome_of(client["reason"])
    return outcome if outcome in NOT_KEPT else UNUSED


def _key(client: Mapping[str, Any]) -> int:
    return int(client["node"] if client["partition"] is None else client["partition"])


def _mean_influences(run: Run) -> dict[int, float]:
    """Return each client's mean influence, a faulty one's over rounds in which its fault acts."""
    influences: dict[int, list[float]] = {}
    for client in run.clients:
        own = influences.setdefault(_key(client), [])
        if client["fault"] or _key(client) not in run.faulty:
            own.append(client["influence"] or 0.0)
    return {key: fmean(own) if own else 0.0 for key, own in influences.items()}


def _title(client: Mapping[str, Any], fault: str | None, site: str | None) -> str:
    acting = client["fault"] or (f"{fault}, not in this round" if fault else None)
    name = f"client {_key(client)}" + (f" {site}" if site else "")
    name += f" ({acting})" if acting else ""
    text = f"kept, influence {client['influence']:.3f}" if client["kept"] else client["reason"]
    return f"round {client['round']}, {name}: {text or 'not used'}"
