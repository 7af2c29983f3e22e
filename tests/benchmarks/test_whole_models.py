"""Rows of whole models, on a tiny one."""

import json

import pytest

from benchmarks import whole_models
from benchmarks.record import newest_lines
from benchmarks.whole_models import Engine, Row
from jinfer.bench.opening import assigned_options
from jinfer.bench.workloads import find_workload
from jinfer.config import EngineConfig
from jinfer.models.registry import read_model_config
from jinfer.weights.hub import DEMO_MODEL, read_json


@pytest.fixture
def configs(tmp_path, monkeypatch):
    (tmp_path / "demo").symlink_to(DEMO_MODEL)
    engine = Engine("demo", ("quantization=int8", "kv_cache_dtype=int8"))
    rows = {
        "one": Row(engine, "latency", "b1", "quantization.jsonl"),
        "two": Row(engine, "latency", "b2-8", "models.jsonl"),
        "other": Row(engine, "throughput", "mixed4", "models.jsonl"),
        "long": Row(engine, "throughput", "4x8", "models.jsonl", output_len=1000),
        "bad": Row(Engine("demo", ("page_size=0",)), "latency", "b1", "models.jsonl"),
    }
    monkeypatch.setattr(whole_models, "ROWS", rows)
    return tmp_path


def line(name):
    return {
        "id": f"demo-{name}",
        "value": 1.5,
        "unit": "ms",
        "limit": 1,
        "percent_of_limit": 66.7,
        "commit": "abc1234",
        "date": "2026-12-01",
        "versions": {"device": "a device"},
        "details": {"repeats": [1.5]},
    }


def test_rows_of_an_engine_are_measured_by_one_process_and_kept_by_their_ids(configs, monkeypatch, capsys):
    commands = []

    def bench(*words):
        commands.append(words)
        return (line(word) for word in words if word in ("b1", "b2-8", "mixed4", "4x8"))

    monkeypatch.setattr(whole_models, "jinfer_bench", bench)
    results = configs / "results"
    words = [str(configs), "one", "other", "two", "long", "--record", "--results", str(results)]
    assert whole_models.main([*words, "--repeats", "1", "--set", "page_size=16"]) == 0
    options = ("quantization=int8", "kv_cache_dtype=int8", "page_size=16")
    sets = tuple(word for option in options for word in ("--set", option))
    model = ("--config", str(configs / "demo"), "--repeats", "1")
    assert commands == [
        ("latency", "b1", "b2-8", *model, *sets),
        ("throughput", "mixed4", *model, *sets),
        ("throughput", "4x8", *model, "--output-len", "1000", *sets),
    ]
    printed = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [each["id"] for each in printed] == ["one", "two", "other", "long"]
    assert printed[0] == {**{k: v for k, v in line("b1").items() if k != "details"}, "id": "one"}
    (device,) = results.iterdir()
    kept = [newest_lines(device / name) for name in ("quantization.jsonl", "models.jsonl")]
    assert [sorted(lines) for lines in kept] == [["one"], ["long", "other", "two"]]
    assert kept[0]["one"] == printed[0]


def test_a_row_that_fails_is_said(configs, capfd):
    assert whole_models.main([str(configs), "bad"]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "page_size" in captured.err
    assert "bad: it ended with status" in captured.err


def test_unknown_rows_are_refused(configs, capsys):
    with pytest.raises(SystemExit):
        whole_models.main([str(configs), "three"])
    assert "no row is called three; there are one, two, other, long, bad" in capsys.readouterr().err


def test_every_row_is_a_workload_that_there_is():
    for row in whole_models.ROWS.values():
        find_workload(row.kind, row.workload, 128)
        EngineConfig.from_options(assigned_options(row.engine.options))


def test_a_configuration_that_users_may_lack_is_beside_the_benchmark(configs):
    directory = whole_models._directory(configs, "gemma-3-4b")
    config = read_model_config(read_json(directory / "config.json"))
    assert (config.num_layers, config.hidden_size) == (34, 2560)
    assert whole_models._directory(configs, "demo") == configs / "demo"
