"""Checks that a batch's labels are class numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from hqde_fl.clients.class_scores import ignore_index_of
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError


def ignored_label(task: Task) -> int:
    """Return a task's ``ignore_index``: the one it states, or else that of its loss."""
    return ignore_index_of(task.loss) if task.ignore_index is None else task.ignore_index


def check_labels(labels: Tensor, classes: int, ignored: int, asker: str) -> None:
    """Raise ``ConfigError`` unless every label is a class number or the ignored label.

    Parameters
    ----------
    labels : Tensor
        Class numbers, of any shape and dtype.
    classes : int
        Number of classes.
    ignored : int
        The label that the loss ignores.
    asker : str
        The part that needs the labels, for the error message.
    """
    numbers = labels.to(torch.int64)
    for valid, bound in (
        (numbers == labels, "whole numbers as labels"),
        (numbers < classes, f"labels below {classes}"),
        (numbers >= 0, "labels of at least 0"),
    ):
        invalid = ~valid & (numbers != ignored)
        if bool(invalid.any()):
            label = labels[invalid].flatten()[0].item()
            raise ConfigError(
                f"{asker} needs {bound}, found {label}; a label that counts as none has to be the "
                "loss's ignore_index"
            )
