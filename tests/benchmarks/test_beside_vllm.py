"""The six rows of the README are those of the results, and so is what the picture shows."""

import json
from pathlib import Path

import pytest

from benchmarks import beside_vllm
from benchmarks.record import RESULTS

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def results(tmp_path):
    rows = [
        {"workload": "one", "unit": "ms", "vllm": 5.0, "jinfer": 4.0, "limit": 2.0},
        {"workload": "many", "unit": "tokens/s", "vllm": 9000, "jinfer": 10800, "limit": 12000},
    ]
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / beside_vllm.FILE_NAME).write_text(json.dumps({"rows": rows}))
    return tmp_path


def test_times_and_rates_stand_beside_each_other(results, capsys):
    assert beside_vllm.main(["--results", str(results), "--device", "gpu"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| one | 5 ms | **4 ms** | 2 ms | 1.25x |",
        "| many | 9,000 tokens/s | **10,800 tokens/s** | 12,000 tokens/s | 1.20x |",
    ]
    assert (results / "gpu" / beside_vllm.PICTURE_NAME).stat().st_size > 1000


def test_the_share_of_the_limit_is_below_one_for_times_and_rates():
    assert beside_vllm.share_of_limit({"unit": "ms", "jinfer": 4.0, "limit": 2.0}, "jinfer") == 0.5
    assert beside_vllm.share_of_limit({"unit": "tokens/s", "jinfer": 3.0, "limit": 12.0}, "jinfer") == 0.25


def test_the_readme_has_the_rows_of_the_results():
    rows = json.loads((RESULTS / "nvidia-h200" / beside_vllm.FILE_NAME).read_text(encoding="utf-8"))["rows"]
    assert set(beside_vllm.table(rows)) <= set(README.read_text(encoding="utf-8").splitlines())
