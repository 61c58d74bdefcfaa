"""Choose the clients of a round by a selector, which may be the user's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import final

import numpy as np

from hqde_fl.errors import TaskError
from hqde_fl.selection import Candidates, Selection, Selector
from hqde_fl.selection.base import State, work_level


@final
@dataclass(frozen=True, eq=False)
class Choice:
    """The nodes that train in a round.

    Parameters
    ----------
    nodes : list[int]
        Ids of the nodes, each once.
    work : dict[int, float]
        Node -> the part of its local training that it does; nodes that do all of it are not in it.
    state : State
        The selector's next state.
    """

    nodes: list[int]
    work: dict[int, float]
    state: State

    def leave_out(self, clients: Collection[int], client_of: Callable[[int], int]) -> Choice:
        """Return the choice without the nodes of some clients."""
        if not clients:
            return self
        kept = [node for node in self.nodes if client_of(node) not in clients]
        return replace(self, nodes=kept)


def choose_nodes(
    selector: Selector,
    nodes: Sequence[int],
    client_of: Callable[[int], int],
    resting: Collection[int],
    candidates: Candidates,
    state: State,
    rng: np.random.Generator,
    clients: int | None = None,
) -> Choice:
    """Choose from the nodes that do not rest, as many as would be chosen from all nodes.

    Fewer if too few are left; none if all nodes rest.

    Parameters
    ----------
    selector : Selector
        Chooses the clients.
    nodes : Sequence[int]
        All connected nodes.
    client_of : Callable[[int], int]
        Node -> its client, by the id that rules know.
    resting : Collection[int]
        Clients that rest.
    candidates : Candidates
        The round, its deadline and the clients' histories; ids and size are set here.
    state : State
        The selector's state.
    rng : np.random.Generator
        Source of the selector's random numbers.
    clients : int, optional
        The number of clients that as many are chosen of as the selector says; all connected nodes
        if not given.

    Raises
    ------
    TaskError
        If the selector returns no ``Selection`` of at most as many of its candidates, each once,
        with parts of work in (0, 1] and a mapping as its state.
    """
    awake = {client: node for node in nodes if (client := client_of(node)) not in resting}
    if not awake:
        return Choice([], {}, state)
    size = min(selector.size(len(nodes) if clients is None else clients), len(awake))
    candidates = replace(candidates, ids=list(awake), size=size)
    selection = selector.select(candidates, state, rng)
    _check(selector, selection, awake, len(awake) if selector.varies else size)
    parts = {client: work_level(part) for client, part in selection.work.items()}
    return Choice(
        [awake[client] for client in selection.clients],
        {awake[client]: part for client, part in parts.items() if part < 1},
        selection.state,
    )


def _check(selector: Selector, selection: object, awake: Mapping[int, int], size: int) -> None:
    """Raise ``TaskError`` if what a selector returned is not a selection of its candidates."""
    method = f"{selector}.select must"
    if not isinstance(selection, Selection):
        raise TaskError(f"{method} return a Selection, found {type(selection).__name__}")
    chosen = selection.clients
    if not isinstance(chosen, list) or not set(chosen) <= awake.keys():
        found = chosen if isinstance(chosen, list) else type(chosen).__name__
        raise TaskError(f"{method} return a list of the clients it is given, found {found}")
    if len(set(chosen)) < len(chosen):
        raise TaskError(f"{method} return each client once, found one twice")
    if len(chosen) > size:
        raise TaskError(f"{method} return at most {size} clients, found {len(chosen)}")
    if not isinstance(selection.state, Mapping):
        found = type(selection.state).__name__
        raise TaskError(f"{method} return a mapping as its state, found {found}")
    for client, part in selection.work.items():
        if client not in chosen or not (isinstance(part, Real) and 0 < part <= 1):
            raise TaskError(
                f"{method} give parts of work in (0, 1] to chosen clients, "
                f"found {part!r} for client {client}"
            )
