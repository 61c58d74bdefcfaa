"""Every row of the hostile catalogue against HQDEStrategy."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from flwr.app import ArrayRecord

from hqde_fl.codec import Identity, Quantized
from hqde_fl.rules import ByzantineFilter, Mean
from hqde_fl.simulations.audit import HOSTILE, trial
from hqde_fl.simulations.audit.federation import CULPRIT, form, start
from hqde_fl.simulations.audit.memory import settle
from hqde_fl.strategies.callbacks import Callback, ClientRecord, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Communication, Participation, Reporting


class Culprit(Callback):
    """Keeps what became of the culprit."""

    def __init__(self) -> None:
        self.records: list[ClientRecord] = []
        self.kept: list[int] = []

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        self.kept.append(record.kept)
        self.records += [each for each in record.clients if each.partition == CULPRIT]


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> Iterator[None]:
    """A first run loads modules and starts threads, which is no row's doing."""
    trial(HQDEStrategy(ByzantineFilter()), None)
    settle()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_reply_is_named_and_honest_progress_kept(name: str) -> None:
    """What screening must catch, it catches without the help of a robust rule."""
    row, culprit = HOSTILE[name], Culprit()
    strategy = HQDEStrategy(
        Mean(weighted=True) if row.expected else ByzantineFilter(),
        communication=Communication(
            downlink=Quantized(8, unbiased=False) if row.codec else Identity()
        ),
        participation=Participation(identify=True),
        reporting=Reporting([culprit]),
    )
    finding = trial(strategy, row, guarded=True, expected=form(start()))
    assert finding.held, finding
    last = culprit.records[-1]
    if row.asked == "evaluate":
        assert last.kept
        assert finding.named == bool(row.expected)
        assert row.expected in f"{finding.said} "
    elif row.expected:
        assert not last.kept
        assert last.influence == 0
        assert (last.reason or "").startswith(row.expected)
        assert finding.named
        assert culprit.kept[-1] == 10
    else:
        assert last.reason in (None, "filtered", "late: needs the model in full")


def test_honest_clients_pass() -> None:
    culprit = Culprit()
    strategy = HQDEStrategy(
        participation=Participation(identify=True), reporting=Reporting([culprit])
    )
    finding = trial(strategy, None, expected=form(start()))
    assert finding.held
    assert not finding.named
    assert [record.reason for record in culprit.records] == [None, None]
