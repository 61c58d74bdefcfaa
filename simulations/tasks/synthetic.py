"""Stand-ins for data sets: generated examples of the same shapes, which a model can learn.

They are the same for every seed of a run, so that runs can be compared.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part

USER_EXAMPLES = 20
"""Mean number of training examples of a user."""
PATCHES = 4
"""Patches of one colour, in each direction, of which the images of a class are made."""


def example_count(part: Part, train: int) -> int:
    """Return the number of examples of a part: ``train``, or a quarter as many to test with."""
    return train if part == "train" else max(1, train // 4)


def users(name: str, part: Part, train: int) -> NDArray[np.int64]:
    """Return the number of each example's user (n,); about ``USER_EXAMPLES`` belong to each."""
    random = Seeds(0).numpy(name, "users", part)
    return random.integers(max(2, train // USER_EXAMPLES), size=example_count(part, train))


def user_names(numbers: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return names (n,) of users by their numbers."""
    return np.array([f"user-{number:05d}" for number in numbers.tolist()])


def images(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    part: Part,
    train: int,
    *,
    with_users: bool = False,
) -> ExampleTable:
    """Return images whose classes differ in the brightness of 4 x 4 patches, under noise.

    Parameters
    ----------
    name : str
        The task: each has its own classes.
    shape : tuple[int, int, int]
        Channels, height and width of an image; height and width are multiples of 4.
    classes : int
        Number of classes, all of the same size.
    part : {"train", "test"}
        The examples to return.
    train : int
        Number of training examples.
    with_users : bool, default=False
        Add the column ``user``; the images of each user have a brightness of their own.

    Returns
    -------
    ExampleTable
        Bytes (n, *shape) and the classes.
    """
    channels, height, width = shape
    count = example_count(part, train)
    patches = (
        Seeds(0)
        .numpy(name, "patches")
        .integers(0, 96, (classes, channels, PATCHES, PATCHES), np.uint8)
    )
    random = Seeds(0).numpy(name, part)
    labels = random.permutation(np.arange(count) % classes)
    pixels = random.integers(0, 128, (count, *shape), np.uint8)
    sides = height // PATCHES, width // PATCHES
    pixels += patches.repeat(sides[0], axis=2).repeat(sides[1], axis=3)[labels]
    columns = {}
    if with_users:
        owner = users(name, part, train)
        pixels += (owner % 32).astype(np.uint8)[:, None, None, None]  # at most 127 + 95 + 31
        columns["user"] = user_names(owner)
    return ExampleTable(torch.from_numpy(pixels), torch.from_numpy(labels), columns)


def characters(name: str, letters: int, length: int, part: Part, train: int) -> ExampleTable:
    """Return sequences of characters and the one that comes next, of a Markov chain.

    Most characters have a likely successor that all users share; a fifth of each user's characters
    is followed by one of the user's own choice.

    Returns
    -------
    ExampleTable
        Bytes (n, length) below ``letters``, the next character as label, and the column ``user``.
    """
    seeds = Seeds(0)
    successor = seeds.numpy(name, "successors").permutation(letters)
    owner = users(name, part, train)
    random = seeds.numpy(name, part)
    text = np.empty((len(owner), length + 1), np.int64)
    text[:, 0] = random.integers(letters, size=len(owner))
    for place in range(length):
        choice = random.random(len(owner))  # nosec B311
        following = successor[text[:, place]]
        own = (text[:, place] + owner) % letters
        text[:, place + 1] = np.where(choice < 0.7, following, np.where(choice < 0.9, own, 0))
    return ExampleTable(
        torch.from_numpy(text[:, :-1].astype(np.uint8)),
        torch.from_numpy(text[:, -1].copy()),
        {"user": user_names(owner)},
    )


def rows(
    name: str, numbers: int, categories: tuple[int, ...], classes: int, part: Part, train: int
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return rows of numbers and categories, whose class is a noisy linear function of both.

    Parameters
    ----------
    name : str
        The task: each has its own function.
    numbers : int
        Number of numeric columns, drawn from a standard normal distribution.
    categories : tuple[int, ...]
        Number of different values of each column of categories.
    classes : int
        Number of classes.
    part : {"train", "test"}
        The examples to return.
    train : int
        Number of training examples.

    Returns
    -------
    numeric : NDArray
        (n, numbers) columns of numbers.
    codes : list[NDArray]
        A column (n,) of values in [0, size) for each size in ``categories``.
    labels : NDArray
        (n,) classes.
    """
    count = example_count(part, train)
    weights = Seeds(0).numpy(name, "weights")
    random = Seeds(0).numpy(name, part)
    numeric = random.standard_normal((count, numbers))
    scores = numeric @ weights.standard_normal((numbers, classes))
    codes = []
    for size in categories:
        column = random.integers(size, size=count)
        scores += weights.standard_normal((size, classes))[column]
        codes.append(column)
    scores += random.standard_normal((count, classes))
    return numeric, codes, scores.argmax(axis=1)
