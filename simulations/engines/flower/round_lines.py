"""Rounds of a run as lines of its log, which reach whoever follows the run on a SuperLink."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, final

from flwr.app import ArrayRecord

from hqde_fl.simulations.recording.json_log import log_round
from hqde_fl.simulations.recording.run_directory import round_line
from hqde_fl.simulations.recording.strict_json import to_json_value
from hqde_fl.strategies.callbacks import Callback, RoundRecord

LOG_ROUNDS = "log-rounds"
"""Key of a run's config that makes its ServerApp log the rounds."""

_PREFIX = "hqde-fl round: "
_ROUND = re.compile(rf"{_PREFIX}(\{{.*\}})")
MAX_LINE_LENGTH = 64 * 1024
"""Longest line that is read, in characters."""


@final
class LoggedRounds(Callback):
    """Logs each round as its line of ``rounds.jsonl``."""

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Print the round's line to stdout, which Flower mirrors into the run's log."""
        text = json.dumps(to_json_value(round_line(record)), separators=(",", ":"))
        sys.stdout.write(f"{_PREFIX}{text}\n")  # at once, so that no other line gets into it
        sys.stdout.flush()
        log_round(record.round + 1)


class RoundReader:
    """Finds the rounds in the lines of a log, each round once.

    Parameters
    ----------
    on_round : Callable
        Called with each line of ``rounds.jsonl``.
    """

    def __init__(self, on_round: Callable[[Mapping[str, Any]], None]) -> None:
        self._on_round, self._last = on_round, -1

    def read(self, line: str) -> None:
        """Pass on the round in a line of the log, if there is one.

        A line that cannot be read, as one that was cut off, is ignored: the log is for humans.
        """
        match = _ROUND.fullmatch(line) if len(line) <= MAX_LINE_LENGTH else None
        if match is None:
            return
        try:
            table = json.loads(match[1])
            number = table["round"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        if isinstance(number, int) and number > self._last and _complete(table):
            self._last = number
            self._on_round(table)


def _complete(table: Mapping[str, Any]) -> bool:
    """Return True if a table has what is shown of a round."""
    return {*table} >= {"server", "clients-train", "clients-evaluate", "seconds", "note", "f-used"}
