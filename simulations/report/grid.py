"""Who was kept, and who was not, in every round: one cell for each client and round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hqde_fl.simulations.recording.run_directory import Run

STATUSES = ("kept", "filtered", "rejected", "failed", "late", "skipped", "unused")

_LABEL, _BAR, _TOP, _STEP = 104, 138, 22, 19


@dataclass(frozen=True)
class Square:
    """A client in a round.

    Parameters
    ----------
    x, y, width : float
        Where it is drawn.
    status : str
        What became of the client, one of ``STATUSES``.
    strength : float
        How strongly it is drawn: a kept client as strongly as it counted.
    title : str
        Everything about it.
    """

    x: float
    y: float
    width: float
    status: str
    strength: float
    title: str


@dataclass(frozen=True)
class Line:
    """A client.

    Parameters
    ----------
    y : float
        Where it is drawn.
    label : str
        Its name.
    fault : str or None
        What is wrong with it.
    share : float
        Its mean influence over the rounds it took part in.
    """

    y: float
    label: str
    fault: str | None
    share: float


@dataclass(frozen=True)
class Grid:
    """All clients of a run, the faulty ones first.

    Parameters
    ----------
    width, height : float
        Of the drawing.
    lines : tuple[Line, ...]
        The clients.
    squares : tuple[Square, ...]
        The clients in their rounds.
    ticks : tuple[tuple[float, int], ...]
        Where the rounds are named.
    bars : float
        Where the bars of influence begin.
    scale : float
        Length of a bar for an influence of one.
    fair : float
        The influence of one among equals.
    statuses : tuple[str, ...]
        Those that occur.
    """

    width: float
    height: float
    lines: tuple[Line, ...]
    squares: tuple[Square, ...]
    ticks: tuple[tuple[float, int], ...]
    bars: float
    scale: float
    fair: float
    statuses: tuple[str, ...]


def status_of(client: Mapping[str, Any]) -> str:
    """The status of a line of ``clients.jsonl``."""
    if client["kept"]:
        return "kept"
    reason = str(client["reason"] or "unused")
    return next((status for status in STATUSES if reason.startswith(status)), "unused")


def grid(run: Run, room: float) -> Grid | None:
    """The grid of a run; None if no client ever took part.

    Parameters
    ----------
    run : Run
        The run.
    room : float
        Width for all its rounds, as long as they can still be told apart.
    """
    if not run.clients:
        return None
    keys = sorted(
        {_key(each) for each in run.clients}, key=lambda key: (key not in run.faulty, key)
    )
    rounds = max(int(each["round"]) for each in run.clients)
    step = min(36.0, max(9.0, room / rounds))
    rows = {key: _TOP + place * _STEP for place, key in enumerate(keys)}
    asked = len(run.clients) / len({each["round"] for each in run.clients})
    shares = {key: _mean_share(run, key) for key in keys}
    lines = tuple(Line(y, str(key), run.faulty.get(key), shares[key]) for key, y in rows.items())
    squares = tuple(
        Square(
            x=_LABEL + (each["round"] - 1) * step,
            y=rows[_key(each)],
            width=step - 2,
            status=status_of(each),
            strength=min(1.0, 0.25 + 0.5 * (each["influence"] or 0.0) * asked)
            if each["kept"]
            else 1.0,
            title=_title(each, run.faulty.get(_key(each))),
        )
        for each in run.clients
    )
    every = next(k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if step * k >= 26)
    named = [n for n in range(1, rounds + 1) if n % every == 0 or (n == 1 and every != 2)]
    bars = _LABEL + rounds * step + 14
    return Grid(
        width=bars + _BAR,
        height=_TOP + len(keys) * _STEP + 4,
        lines=lines,
        squares=squares,
        ticks=tuple((_LABEL + (number - 0.5) * step - 1, number) for number in named),
        bars=bars,
        scale=90 / max(*shares.values(), 1 / asked, 1e-9),
        fair=1 / asked,
        statuses=tuple(s for s in STATUSES if any(square.status == s for square in squares)),
    )


def _key(client: Mapping[str, Any]) -> int:
    return int(client["node"] if client["partition"] is None else client["partition"])


def _mean_share(run: Run, key: int) -> float:
    found = [each["influence"] or 0.0 for each in run.clients if _key(each) == key]
    return float(sum(found) / len(found))


def _title(client: Mapping[str, Any], fault: str | None) -> str:
    who = f"client {_key(client)}" + (f" ({fault})" if fault else "")
    what = f"kept, influence {client['influence']:.3f}" if client["kept"] else client["reason"]
    return f"round {client['round']}, {who}: {what or 'not used'}"
