"""Every notebook runs from top to bottom, and in the time that it promises."""

import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
MOST_SECONDS = 120


def count_pictures(notebook) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.filterwarnings("default")  # of the kernel that runs it, which are not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    nbclient.NotebookClient(
        notebook, timeout=MOST_SECONDS, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    assert time.perf_counter() - began < MOST_SECONDS
    assert count_pictures(notebook) > 0, "a notebook shows at least one figure"
    kept = nbformat.read(path, as_version=4)
    assert count_pictures(kept) == count_pictures(notebook), "it is committed with the pictures that it makes"


def test_there_are_notebooks():
    assert NOTEBOOKS
