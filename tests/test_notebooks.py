"""Every notebook runs from top to bottom, and in the time that it promises."""

import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
MOST_SECONDS = 120


@pytest.mark.filterwarnings("default")  # of the kernel that runs it, which are not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    nbclient.NotebookClient(
        notebook, timeout=MOST_SECONDS, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    assert time.perf_counter() - began < MOST_SECONDS
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert pictures, "a notebook shows at least one figure"


def test_there_are_notebooks():
    assert NOTEBOOKS
