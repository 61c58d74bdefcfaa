"""The notebook in the documents runs as it stands."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "python.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    committed = [kinds_of(cell) for cell in notebook.cells]
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=folder).execute()
    assert [kinds_of(cell) for cell in notebook.cells] == committed
    texts = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "execute_result"
    ]
    assert "server.accuracy" in texts[0]
    assert sum("<Figure size" in text for text in texts) == 2
    assert any(text.startswith("{'accuracy': 0.") for text in texts)


def kinds_of(cell: nbformat.NotebookNode) -> list[list[str]]:
    """Return the kinds of data in each output of a cell."""
    return [sorted(output.get("data", ())) for output in cell.get("outputs", ())]
