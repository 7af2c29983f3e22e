"""The table of what was recorded, beside vLLM."""

import json

import pytest

from benchmarks import engine


def line(name, value, unit, limit, percent):
    return {"id": name, "value": value, "unit": unit, "limit": limit, "percent_of_limit": percent}


LINES = (
    line("06b-b1", 0.5, "ms", 0.3, 60.0), line("8b-b1", 9.0, "ms", 3.3, 40.0), line("8b-b1", 4.0, "ms", 3.3, 82.5),
    line("8b-mixed256", 11514.0, "tokens/s", 14000.0, 82.2), line("8b-shared-prefix", 9.5, "ratio", 14.0, 67.9),
    line("ablation-8b-page-1-b64-1024", 7.0, "ms", 5.6, 80.0), line("8b-start-warm", 7.0, "s", 0.03, 0.4),
)  # fmt: skip


@pytest.fixture
def results(tmp_path):
    (tmp_path / "nvidia-h200").mkdir()
    (tmp_path / "nvidia-h200" / "engine.jsonl").write_text("".join(json.dumps(each) + "\n" for each in LINES))
    return tmp_path


def test_the_newest_line_of_each_workload_stands_beside_vllm(results, capsys):
    assert engine.main(["table", "--results", str(results)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| model | workload | vLLM 0.20.2 | jinfer | limit | of limit | beside vLLM |",
        "|---|---|---|---|---|---|---|",
        "| Qwen3-8B | 1 request, 128 in: TPOT | 5.24 ms | **4 ms** | 3.3 ms | 82% | 1.31x |",
        "| Qwen3-8B | mixed256: output | 9,595 tokens/s | **11,514 tokens/s** | 14,000 tokens/s | 82% | 1.20x |",
        "| Qwen3-8B | start to ready, warm compilation cache | - | **7 s** | 0.03 s | 0% | - |",
        "| Qwen3-8B | 16 requests that share 4,096 tokens: TTFT, sooner by | - | **9.5x** | 14.0x | 68% | - |",
        "| Qwen3-0.6B | 1 request, 128 in: TPOT | 1.81 ms | **0.5 ms** | 0.3 ms | 60% | 3.62x |",
    ]


def test_every_workload_of_the_table_has_a_description():
    assert all(engine.described(suffix) for suffix in engine.ORDER)
    assert engine.described("1000x1024") == "1,000 x (1,024 in, 128 out): output"


def test_vllm_s_figures_are_of_workloads_in_the_table():
    other = json.loads((engine.RESULTS / engine.OTHER).read_text())
    for name, figure in other["figures"].items():
        prefix, suffix = name.split("-", 1)
        assert prefix in engine.MODELS
        assert suffix in engine.ORDER
        assert figure.keys() == {"value", "unit"}


def test_a_device_without_results_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match=r"there is no .*engine\.jsonl: run `jinfer bench"):
        engine.main(["table", "--results", str(tmp_path)])
