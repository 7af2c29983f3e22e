"""Every notebook runs from top to bottom, and in the time that it promises."""

import resource
import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
MAX_SECONDS = 120
# Of the machine that the time is promised for: beside other tests the clock says more, and the CPU does not.
CORES = 2


def children_cpu_seconds() -> float:
    """Of all processes that this one has started and that have ended, such as the kernels of notebooks."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def count_pictures(notebook) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.filterwarnings("default")  # of the kernel that runs it, which are not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch):
    """It runs from top to bottom, with a cache of compiled steps of its own: its engines have the same
    shapes."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    notebook = nbformat.read(path, as_version=4)
    began, began_cpu = time.perf_counter(), children_cpu_seconds()
    nbclient.NotebookClient(
        notebook,
        timeout=MAX_SECONDS * CORES,
        kernel_name="python3",
        resources={"metadata": {"path": path.parent}},
    ).execute()
    seconds, cpu_seconds = time.perf_counter() - began, children_cpu_seconds() - began_cpu
    assert seconds < MAX_SECONDS or cpu_seconds < MAX_SECONDS * CORES
    assert count_pictures(notebook) > 0, "a notebook shows at least one figure"
    kept = nbformat.read(path, as_version=4)
    assert count_pictures(kept) == count_pictures(notebook), "it is committed with the pictures that it makes"


def test_there_are_notebooks():
    assert NOTEBOOKS
