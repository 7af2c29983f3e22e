"""Results of the engine that are recorded, and their table beside vLLM."""

import json

import pytest

from benchmarks import engine, processes
from benchmarks.record import newest_lines, short_id


def line(name, value, unit, limit, percent):
    return {"id": name, "value": value, "unit": unit, "limit": limit, "percent_of_limit": percent}


LINES = (
    line("06b-b1", 0.5, "ms", 0.3, 60.0),
    line("8b-b1", 9.0, "ms", 3.3, 40.0),
    line("8b-b1", 4.0, "ms", 3.3, 82.5),
    line("8b-mixed256", 11514.0, "tokens/s", 14000.0, 82.2),
    line("8b-shared-prefix", 9.5, "ratio", 14.0, 67.9),
    line("ablation-8b-page-1-b64-1024", 7.0, "ms", 5.6, 80.0),
    line("8b-start-warm", 7.0, "s", 0.03, 0.4),
)


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
        "| Qwen3-8B | mixed256: output | 9,595 tokens/s | **11,514 tokens/s** | 14,000 tokens/s | 82% | "
        "1.20x |",
        "| Qwen3-8B | start to ready, warm compilation cache | - | **7 s** | 0.03 s | 0% | - |",
        "| Qwen3-8B | 16 requests that share 4,096 tokens: TTFT, sooner by | - | **9.5x** | 14.0x | 68% | - "
        "|",
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
    with pytest.raises(
        SystemExit, match=r"there is no .*engine\.jsonl: run `python -m benchmarks.engine record"
    ):
        engine.main(["table", "--results", str(tmp_path)])


def measured(name, percent):
    """A line of `jinfer bench`."""
    return {
        **line(name, 2.0, "ms", 1.0, percent),
        "date": "2026-11-29",
        "versions": {"device": "NVIDIA H200"},
        "command": "jinfer bench",
        "details": {"each_ms": [2.0]},
    }


@pytest.fixture
def bench(monkeypatch):
    """Gives the lines of `jinfer bench`, and what it was asked for."""
    asked = []

    def gives(*lines):
        monkeypatch.setattr(processes, "json_lines", lambda command: asked.append(command) or iter(lines))
        return asked

    monkeypatch.setenv("KERNELS_COMMIT", "abc1234")
    return gives


def test_what_jinfer_bench_gives_is_recorded_with_the_commit(bench, tmp_path, capsys):
    asked = bench(measured("qwen3-0-6b-b1", 50.0), measured("tiny-b2-8", 50.0))
    assert engine.main(["record", "--results", str(tmp_path), "latency", "b1", "--config", "DIR"]) == 0
    assert asked[0][-7:] == ["bench", "latency", "b1", "--config", "DIR", "--json", "-"]
    recorded = newest_lines(tmp_path / "nvidia-h200" / "engine.jsonl")
    assert list(recorded) == ["06b-b1", "tiny-b2-8"]
    assert list(recorded["06b-b1"]) == [
        "id",
        "value",
        "unit",
        "limit",
        "percent_of_limit",
        "commit",
        "date",
        "versions",
        "command",
    ]
    assert recorded["06b-b1"]["commit"] == "abc1234"
    assert capsys.readouterr().out.splitlines()[0].split() == ["06b-b1", "2", "ms", "limit", "1", "ms"]


def test_a_result_above_its_limit_is_not_recorded(bench, tmp_path, capsys):
    bench(measured("tiny-ttft-8", 101.0))
    assert engine.main(["record", "--results", str(tmp_path), "latency", "ttft-8"]) == 1
    assert (
        "not recorded, for nothing reaches more than 100% of a limit: tiny-ttft-8" in capsys.readouterr().err
    )
    assert newest_lines(tmp_path / "nvidia-h200" / "engine.jsonl") == {}


def test_results_that_cannot_be_kept_are_not_measured(bench):
    asked = bench()
    with pytest.raises(SystemExit, match="nowhere is no directory that can be written; give --results DIR"):
        engine.main(["record", "--results", "nowhere", "latency", "b1"])
    assert asked == []


def test_what_stdout_does_not_take_is_recorded_all_the_same(bench, tmp_path, monkeypatch):
    bench(measured("tiny-ttft-8", 50.0))
    monkeypatch.setattr(
        engine, "print", lambda *words, **options: (_ for _ in ()).throw(OSError(28)), raising=False
    )
    with pytest.raises(OSError, match="28"):
        engine.main(["record", "--results", str(tmp_path), "latency", "ttft-8"])
    assert list(newest_lines(tmp_path / "nvidia-h200" / "engine.jsonl")) == ["tiny-ttft-8"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("qwen3-8b-b64-1024", "8b-b64-1024"),
        ("qwen3-0-6b-prefill-32x2048", "06b-prefill"),
        ("qwen3-8b", "8b"),
        ("qwen3-30b-a3b-b1", "qwen3-30b-a3b-b1"),
        ("my-model-x-prefill-2x64", "my-model-x-prefill-2x64"),
    ],
)
def test_ids_begin_with_the_model(name, short):
    assert short_id(name) == short
