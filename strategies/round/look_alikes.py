"""Note metrics whose names look like another metric's in letters of other scripts."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from logging import WARNING

from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.screening import NUM_EXAMPLES
from hqde_fl.protocol.spent_epsilon import EPSILON

RESERVED = frozenset({NUM_EXAMPLES, EPSILON, "accuracy", "loss", "train-loss", "train-seconds"})
"""Names of metrics with a meaning of their own."""


def note_look_alikes(reports: Mapping[int, Mapping[str, float]]) -> None:
    """Log each metric that looks like a reserved name, or like a metric of another client.

    A reader of a table cannot tell the two apart. Both are kept: names mean nothing to the server.

    Parameters
    ----------
    reports : Mapping[int, Mapping[str, float]]
        Node id -> the metrics that it reports, by name.
    """
    names = {name for metrics in reports.values() for name in metrics}
    known = RESERVED | names
    for name in sorted(names):
        if (other := look_alike(name, known)) is not None:
            nodes = [node for node, metrics in reports.items() if name in metrics]
            line = "metric %s of %d clients (first: node %d) looks like %r, but is another one"
            log(WARNING, line, ascii(name), len(nodes), nodes[0], other)


def look_alike(name: str, known: Collection[str]) -> str | None:
    """Return the name in ASCII among ``known`` that a name looks like; None if there is none.

    Letters are compared by Unicode's table of confusable characters (UTS #39).
    """
    if name.isascii():
        return None
    from confusable_homoglyphs.confusables import is_confusable  # it reads a large table

    text = unicodedata.normalize("NFKC", name)
    others = "".join(letter for letter in text if not letter.isascii())
    seen = {}
    for letter in is_confusable(others, greedy=True) or []:
        shapes = [shape["c"] for shape in letter["homoglyphs"] if shape["c"].isascii()]
        seen[ord(letter["character"])] = min(shapes, default=letter["character"])
    text = text.translate(seen)
    return text if text in known and text.isascii() else None
