"""Load the trained models of a run directory."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from hqde_fl.clients.initial_state import build_member
from hqde_fl.errors import ConfigError, DataError
from hqde_fl.protocol.members import split_members
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.file_names import MODEL
from hqde_fl.simulations.recording.weights_file import read_weights


def trained_models(path: Path, experiment: Experiment) -> list[nn.Module]:
    """Return new modules with the final weights of a run, one for each member of its ensemble.

    They are on the CPU and in evaluation mode.

    Parameters
    ----------
    path : Path
        The run directory.
    experiment : Experiment
        The run's experiment, whose task builds the modules.

    Raises
    ------
    ConfigError
        If the run has no final model, or its task cannot be loaded.
    DataError
        If the file cannot be read, or holds the weights of another model.
    """
    if not (path / MODEL).exists():
        raise ConfigError(f"{path} has no final model: the run did not finish")
    state, _ = read_weights(path / MODEL)
    task, models = experiment.load_task(), []
    for number, member in enumerate(split_members(state, experiment.clients.members)):
        model = build_member(task, experiment.parts.seeds, number)
        try:
            model.load_state_dict(member)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{path / MODEL} holds the weights of another model: {reason}"
            ) from None
        models.append(model.eval())
    return models
