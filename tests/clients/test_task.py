import pytest
import torch

from hqde_fl.clients.task import Task, accuracy
from hqde_fl.errors import ConfigError


def test_accuracy_is_the_fraction_of_correct_predictions():
    outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [0.0, 1.0]])
    assert accuracy(outputs, torch.tensor([0, 1, 1, 1])) == 0.75


def test_a_metric_may_not_take_the_name_of_the_loss(task):
    with pytest.raises(ConfigError, match="must not hold 'loss'"):
        Task(task.model, task.partition, task.test, metrics={"loss": accuracy})
