"""Screen the replies of a cohort that came in one block: what they share is looked at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch

from hqde_fl.protocol.reply_block import BlockRow, ReplyBlock
from hqde_fl.protocol.screening import NUM_EXAMPLES, Accepted, Screening, SentModel
from hqde_fl.updates.received_updates import ModelRows, ReceivedModel


@final
class BlockScreening:
    """Accepts sound rows of blocks; every other one is left to the screening of messages.

    Parameters
    ----------
    sent : SentModel
        The model that the clients were sent.
    limits : Screening
        Limits on the metrics of a reply.
    arrays_key : str
        The name of a reply's one ``ArrayRecord``.
    """

    def __init__(self, sent: SentModel, limits: Screening, arrays_key: str) -> None:
        self._sent, self._limits, self._key = sent, limits, arrays_key
        self._last: _Block | None = None

    def accepted(self, row: BlockRow) -> Accepted | None:
        """Return the update of a client; None if its reply is to be screened as a message.

        It is then rejected for a reason, or of a kind that is seldom.
        """
        last = self._last
        if last is None or last.block is not row.block:
            last = self._last = _Block(row.block, self._sent, self._limits, self._key)
        if not last.fits or not last.is_finite[row.row]:
            return None
        values = row.block.metrics_of(row.row)
        metrics = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        examples = metrics.pop(NUM_EXAMPLES, math.nan)
        others = last.others(row.row)
        if others is None or not 0 < examples <= self._limits.max_num_examples:
            return None
        update = ReceivedModel(last.weights(row.row), self._sent.flat, (last.models, row.row))
        return Accepted(update, others, {}, examples, metrics)


@dataclass(frozen=True, eq=False)
class _Block:
    """The findings that hold for all replies of a block."""

    block: ReplyBlock
    sent: SentModel
    limits: Screening
    key: str

    @cached_property
    def fits(self) -> bool:
        """True if the rows are models as they were sent, with float32 weights and no more."""
        layout, entries = self.sent.layout, self.block.layout.entries
        names = self.block.metrics.keys()
        return (
            self.block.layout.record == self.key
            and [(e.name, e.shape, e.dtype) for e in entries]
            == [(e.name, e.shape, e.dtype) for e in layout.entries]
            and all(e.tied_to is None and e.role != "frozen" for e in layout.entries)
            and {entry.dtype for entry in layout.weights} == {"float32"}
            and self.sent.flat.device.type == "cpu"
            and len(names) <= self.limits.max_metrics
            and all(len(name) <= self.limits.max_metric_name for name in names)
        )

    @cached_property
    def _spans(self) -> list[slice]:
        """The bytes of each weight in a row."""
        places = {entry.name: entry for entry in self.block.layout.entries}
        entries = [places[weight.name] for weight in self.sent.layout.weights]
        return [slice(entry.offset, entry.offset + entry.nbytes) for entry in entries]

    @cached_property
    def models(self) -> ModelRows:
        """The weights of all clients; those that follow one another in a row are one run."""
        runs: list[tuple[int, int, int]] = []
        number = 0
        for span in self._spans:
            column, count = span.start // 4, (span.stop - span.start) // 4
            if runs and runs[-1][2] + runs[-1][1] - runs[-1][0] == column:
                runs[-1] = (runs[-1][0], number + count, runs[-1][2])
            else:
                runs.append((number, number + count, column))
            number += count
        return ModelRows(self.block.numbers.view(np.float32), runs)

    def weights(self, row: int) -> tuple[Any, ...]:
        """Return the weights of a client as views of its row."""
        numbers = self.models.numbers[row]
        return tuple(numbers[span.start // 4 : span.stop // 4] for span in self._spans)

    @cached_property
    def is_finite(self) -> list[bool]:
        """For each client True if the sum of the squares of its weights is finite.

        That proves every number finite, and small enough for any difference.
        """
        if len(self.block.finite) == len(self.block) and all(self.block.finite):
            return [True] * len(self.block)
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.zeros(len(self.block), dtype=np.float32)
            for first, last, column in self.models.runs:
                part = self.models.numbers[:, column : column + last - first]
                total += [np.dot(row, row) for row in part]
            return np.isfinite(total).tolist()  # type: ignore[no-any-return]

    @cached_property
    def _others(self) -> list[tuple[Any, bool]]:
        places = {entry.name: entry for entry in self.block.layout.entries}
        return [(places[e.name], e.is_variance) for e in self.sent.layout.others]

    def others(self, row: int) -> dict[str, torch.Tensor] | None:
        """Return the statistics and counters of a client; None if one is not sound."""
        others = {}
        for entry, is_variance in self._others:
            values = self.block.values(row, entry)
            if not np.isfinite(values).all() or (is_variance and (values < 0).any()):
                return None
            others[entry.name] = torch.from_numpy(values.copy())
        return others
