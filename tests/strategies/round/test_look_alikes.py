"""Names of metrics in letters that look like others."""

from __future__ import annotations

import logging

import pytest

from hqde_fl.strategies.round.look_alikes import look_alike, note_look_alikes

CYRILLIC = "\u0430\u0441\u0441ur\u0430\u0441\u0443"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (CYRILLIC, "accuracy"),
        ("\uff41\uff43\uff43\uff55\uff52\uff41\uff43\uff59", "accuracy"),  # full width
        ("l\u03bfss", "loss"),  # a Greek omicron
        ("num\u2010examples", "num-examples"),  # a hyphen that is none
        ("dice", None),
        ("accuracy", None),
        ("\u03bcacc", None),
        ("pr\u00e9cision", None),
        ("\u7cbe\u5ea6", None),
    ],
)
def test_a_name_that_looks_like_another(name: str, other: str | None) -> None:
    assert look_alike(name, {"accuracy", "loss", "num-examples", "dice"}) == other


def test_each_is_logged_once_with_its_clients(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="flwr"):
        note_look_alikes({5: {"dice": 0.5}, 6: {"di\u0441e": 1.0, CYRILLIC: 1.0}, 7: {CYRILLIC: 0}})
    assert [record.getMessage() for record in caplog.records] == [
        r"metric 'di\u0441e' of 1 clients (first: node 6) looks like 'dice', but is another one",
        rf"metric {CYRILLIC!a} of 2 clients (first: node 6) looks like 'accuracy', "
        "but is another one",
    ]
