"""Clients' states are written when they change, and the files stay in proportion to the clients."""

from __future__ import annotations

import random

from hqde_fl.simulations.checkpoint.client_state_files import Shelf


def test_only_what_changed_is_written() -> None:
    shelf = Shelf().with_file([0, 1, 2], [0, 1, 2], "one")
    assert shelf.due({1}) == [1]
    shelf = shelf.with_file([1], [1], "two")
    assert shelf.places == {0: "one", 1: "two", 2: "one"}
    assert shelf.due(set()) == []


def test_a_file_that_is_mostly_old_is_given_up() -> None:
    shelf = Shelf().with_file([0, 1, 2], [0, 1, 2], "one").with_file([1], [1], "two")
    assert shelf.due({2}) == [0, 2]
    assert set(shelf.with_file([0, 2], [0, 2], "three").written) == {"two", "three"}


def test_a_client_that_forgot_everything_is_on_no_shelf() -> None:
    shelf = (
        Shelf()
        .with_file([0, 1], [0, 1], "one")
        .with_checksum("one", "sum")
        .with_file([0], [], "two")
    )
    assert shelf.places == {1: "one"}
    assert (shelf.written, shelf.checksums) == ({"one": 2}, {"one": "sum"})
    assert Shelf().with_file([0], [0], "one").with_file([0], [], "two") == Shelf()


def test_files_hold_at_most_twice_what_is_alive_and_writes_at_most_double() -> None:
    chance, shelf, changed, written = random.Random(1), Shelf(), 0, 0
    for number in range(500):
        asked = set(chance.sample(range(100), 5))
        due = shelf.due(asked)
        shelf = shelf.with_file(due, due, str(number))
        changed, written = changed + len(asked), written + len(due)
        assert sum(shelf.written.values()) <= 2 * len(shelf.places) + len(due)
    assert written < 2 * changed
