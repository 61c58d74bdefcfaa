"""Lay out the tree that merged a run's last round: of a rule's nodes, or of edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hqde_fl.simulations.experiment.hierarchy import bound_text
from hqde_fl.simulations.recording.file_names import EDGES, TREE
from hqde_fl.simulations.recording.recorded_run import Run, read_lines
from hqde_fl.simulations.report.number_text import byte_text, second_text

WIDTH, MARGIN, NAMES = 1120, 8, 118
"""Width of the drawing, the space at its sides, and that of the levels' names, in pixels."""
BOX, GAP, DOT = 44, 40, 3.0
"""Height of a box, of the space below it, and radius of a client's dot."""
TEXT_WIDTH, WIDE = 52, 136
"""Width that a box needs for text, and for more of it."""
MAX_DRAWN = 128
"""Nodes of a level that are drawn one by one; more are drawn as one bar."""
MAX_DOTS = 300
"""Clients that are drawn as dots."""


@dataclass
class TreeNode:
    """A node that merges its children, or clients.

    Parameters
    ----------
    name : str
        What it is called.
    clients : int
        Clients directly below it.
    seconds : float or None
        How long it took; None if that was not measured.
    size : int
        Bytes that it received from below.
    facts : str
        Further facts, for its tooltip.
    bad : bool
        True if its result did not count.
    children : list[TreeNode]
        The nodes below it.
    sent : int or None
        Bytes that it sent up, if they are to be shown.
    """

    name: str
    clients: int
    seconds: float | None
    size: int
    facts: str = ""
    bad: bool = False
    children: list[TreeNode] = field(default_factory=list)
    sent: int | None = None

    @property
    def leaves(self) -> int:
        """The number of clients below it, at least 1."""
        return max(1, self.clients + sum(child.leaves for child in self.children))

    def depth(self) -> int:
        """Return the number of levels of nodes, its own included."""
        return 1 + max((child.depth() for child in self.children), default=0)


@dataclass(frozen=True)
class Box:
    """A node as it is drawn.

    Parameters
    ----------
    x, y, width : float
        Where it is, in pixels.
    share : float
        Its time as a part of that of the slowest node, in [0, 1].
    texts : tuple[str, ...]
        Its lines of text; empty if it is too narrow.
    title : str
        Its tooltip.
    bad : bool
        True if its result did not count.
    """

    x: float
    y: float
    width: float
    share: float
    texts: tuple[str, ...]
    title: str
    bad: bool


@dataclass(frozen=True)
class Level:
    """The sums of one level of nodes.

    Parameters
    ----------
    name : str
        What its nodes are.
    nodes : int
        Their number.
    slowest, seconds : float
        The time of its slowest node, and of all, in seconds.
    size, largest : int
        Bytes that its nodes received from below: all, and the most of one node.
    y : float
        Where it is drawn.
    """

    name: str
    nodes: int
    slowest: float
    seconds: float
    size: int
    largest: int
    y: float


@dataclass(frozen=True)
class TreeView:
    """A tree as the page draws it.

    Parameters
    ----------
    title, hint : str
        The heading, and a sentence below it.
    bound : str
        The number of faulty clients that it bears; empty if unknown.
    height : float
        Height of the drawing.
    boxes : list[Box]
        The nodes that are drawn one by one.
    bars : list[Box]
        Levels that are drawn as one bar.
    links : list[tuple[float, float, float, float]]
        Lines from a node to the one above it.
    dots : list[tuple[float, float]]
        The clients.
    levels : list[Level]
        The levels, the topmost first.
    clients : int
        Clients below.
    """

    title: str
    hint: str
    bound: str
    height: float
    boxes: list[Box]
    bars: list[Box]
    links: list[tuple[float, float, float, float]]
    dots: list[tuple[float, float]]
    levels: list[Level]
    clients: int


def tree_view(run: Run) -> TreeView | None:
    """Return the tree of a run's last round; None if it has neither a tree nor edges."""
    bound = run.manifest.get("hierarchy")
    text = bound_text(bound) if isinstance(bound, Mapping) else ""
    text = text[:1].upper() + text[1:]
    if lines := _last_round(read_lines(run.path / EDGES)):
        last = next(line for line in run.rounds if line["round"] == lines[0]["server-round"])
        return _laid_out(_edges_tree(lines, last), "Edges of the last round", _OF_EDGES, text)
    if lines := _last_round(read_lines(run.path / TREE)):
        return _laid_out(_rule_tree(lines), "Tree of the last round", _OF_RULES, text)
    return None


_OF_RULES = (
    "Each box is a node of the rule's tree: how long its own rule ran, and the bytes that it read. "
    "The bar in a box is its time, compared with the slowest node. In each round clients are dealt "
    "anew."
)
_OF_EDGES = (
    "Each box is a node: the time that it took itself, the bytes that came in from below, and what "
    "it sent up. The bar in a box is its time, compared with the slowest node. Dots are "
    "clients."
)


def _last_round(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of the last round, each with its number as ``server-round``."""
    last = max((line["round"] for line in lines), default=None)
    return [{**line, "server-round": last} for line in lines if line["round"] == last]


def _rule_tree(lines: Sequence[Mapping[str, Any]]) -> TreeNode:
    first = min(line["member"] for line in lines)
    nodes: dict[str, TreeNode] = {}
    for line in sorted(lines, key=lambda line: str(line["node"]).count("/")):
        if line["member"] != first:
            continue
        path = str(line["node"])
        clients = int(line["children"]) if line["level"] == 0 else 0
        node = TreeNode(path, clients, line["seconds"], int(line["bytes"]))
        nodes[path] = node
        if above := nodes.get(path.rpartition("/")[0]):
            above.children.append(node)
    return nodes["0"]


def _edges_tree(lines: Sequence[Mapping[str, Any]], last: Mapping[str, Any]) -> TreeNode:
    root = TreeNode("server", 0, None, last["edges"]["edge-cloud"]["bytes-up"])
    for line in lines:
        rounds = line["rounds"]
        clients = max((part["asked"] for part in rounds), default=0)
        sizes = line["client-bytes-down"], line["client-bytes-up"]
        facts = [f"{len(rounds)} rounds", f"to the server {byte_text(line['bytes-up'])}"]
        facts.append(f"from it {byte_text(line['bytes-down'])}")
        if sizes[0] is not None:
            facts.append(f"to its clients {byte_text(sizes[0])}")
        if line.get("client-seconds") is not None:
            facts.append(f"its slowest clients {second_text(line['client-seconds'])}")
        if line["fault"]:
            facts.append(f"hostile: {line['fault']}")
        if line["reason"]:
            facts.append(str(line["reason"]))
        seconds = line.get("seconds")
        if seconds is None:
            seconds = line.get("turnaround-seconds")
        name = f"edge {'?' if line['edge'] is None else line['edge']}"
        bad = not line["kept"] or bool(line["fault"])
        node = TreeNode(
            name, clients, seconds, sizes[1] or 0, "; ".join(facts), bad, sent=line["bytes-up"]
        )
        root.children.append(node)
    root.children.sort(key=lambda node: (len(node.name), node.name))
    return root


def _laid_out(root: TreeNode, title: str, hint: str, bound: str) -> TreeView:
    depth, scale = root.depth(), (WIDTH - NAMES - MARGIN) / root.leaves
    by_level: list[list[TreeNode]] = [[] for _ in range(depth)]
    for node, level, _ in _placed(root):
        by_level[level].append(node)
    slowest = max((node.seconds or 0.0 for nodes in by_level for node in nodes), default=0.0)
    clients = sum(node.clients for nodes in by_level for node in nodes)
    dots = root.leaves <= MAX_DOTS
    height = _top(depth) - (GAP / 2 - 12 if dots else GAP - 26)
    view = TreeView(title, hint, bound, height, [], [], [], [], [], clients)
    for level, nodes in enumerate(by_level):
        view.levels.append(_summed(nodes, level, depth, _top(level)))
        if len(nodes) > MAX_DRAWN:
            text, room = f"{len(nodes)} nodes", WIDTH - NAMES - MARGIN
            view.bars.append(Box(NAMES, _top(level), room, 0.0, (text,), text, False))
    for node, level, start in _placed(root):
        middle = NAMES + (start + node.leaves / 2) * scale
        drawn = len(by_level[level]) <= MAX_DRAWN
        if drawn:
            view.boxes.append(_box(node, middle, node.leaves * scale, _top(level), slowest))
        below = start
        for child in node.children:
            if drawn and len(by_level[level + 1]) <= MAX_DRAWN:
                other = NAMES + (below + child.leaves / 2) * scale
                view.links.append((middle, _top(level) + BOX, other, _top(level + 1)))
            below += child.leaves
        for k in range(node.clients if dots and drawn else 0):
            x = NAMES + (below + k + 0.5) * scale
            view.links.append((middle, _top(level) + BOX, x, _top(depth) - GAP / 2))
            view.dots.append((x, _top(depth) - GAP / 2))
    return view


def _placed(node: TreeNode, level: int = 0, start: int = 0) -> Iterator[tuple[TreeNode, int, int]]:
    """Yield each node with its level, and the number of clients to the left of those below it."""
    yield node, level, start
    for child in node.children:
        yield from _placed(child, level + 1, start)
        start += child.leaves


def _top(level: int) -> float:
    return 8 + level * (BOX + GAP)


def _box(node: TreeNode, middle: float, room: float, y: float, slowest: float) -> Box:
    width = max(3.0, min(room - 3, 144.0))
    time = "" if node.seconds is None else second_text(node.seconds)
    size = byte_text(node.size)
    name = node.name if node.name != "0" else "root"
    title = ", ".join(part for part in (name, time, f"{size} in", node.facts) if part)
    if node.sent is not None and width >= WIDE:
        size = f"{size} in, {byte_text(node.sent)} up"
    texts = (time or name, size) if width >= TEXT_WIDTH else ()
    if texts and not name[0].isdigit() and width >= WIDE:
        texts = (f"{name} {time}".strip(), size)
    share = (node.seconds or 0.0) / slowest if slowest else 0.0
    return Box(middle - width / 2, y, width, share, texts, title, node.bad)


def _summed(nodes: Sequence[TreeNode], level: int, depth: int, y: float) -> Level:
    seconds = [node.seconds or 0.0 for node in nodes]
    sizes = [node.size for node in nodes]
    name = nodes[0].name.partition(" ")[0]
    if name[0].isdigit():
        name = "root" if level == 0 else "leaf nodes" if level == depth - 1 else f"level {level}"
    elif level > 0:
        name += "s"
    return Level(name, len(nodes), max(seconds), sum(seconds), sum(sizes), max(sizes), y)
