"""The LSTM of LEAF that predicts the next character of a text."""

from __future__ import annotations

from typing import cast, final

from torch import Tensor, nn


@final
class CharacterLstm(nn.Module):
    """An embedding, LSTM layers, and a linear layer that scores the next character.

    With 80 letters, an embedding of 8, and two layers of 256 units it is the model of LEAF (Caldas
    et al. 2018): 819,920 parameters with torch's two biases for each gate.

    Parameters
    ----------
    letters : int
        Number of different characters.
    embedding : int
        Numbers for each character.
    hidden : int
        Units of a layer.
    layers : int
        Number of LSTM layers.
    """

    def __init__(self, letters: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, letters)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the scores (b, letters) of the character after sequences (b, length) int64."""
        states, _ = self.lstm(self.embedding(characters))
        return cast(Tensor, self.output(states[:, -1]))
