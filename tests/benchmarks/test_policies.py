"""Policies under load: what is run, kept and drawn."""

import json
from pathlib import Path

import pytest

from benchmarks import policies

FIGURES = {"p50_ttft_ms": 20.0, "p99_ttft_ms": 90.0, "p50_tpot_ms": 8.0, "p99_tpot_ms": 16.0}


def fake_bench(calls):
    def bench(*words):
        calls.append(words)
        policy = words[-1].removeprefix("scheduling_policy=")
        if policy == "decode_first":
            raise policies.ProcessError("it ended with status 1")
        suffix = "" if policy == "mixed" else "-prefill-first"
        for load in words[1:3]:
            yield {
                "id": f"8b-{load}-p99-tpot{suffix}",
                "value": 16.0,
                "unit": "ms",
                "limit": 4.0,
                "percent_of_limit": 25.0,
                "commit": "abc",
                "date": "2026-11-21",
                "command": "jinfer bench",
                "versions": {"device": "NVIDIA H200"},
                "details": {**FIGURES, "output_tokens_per_s": 1000.0},
            }

    return bench


def test_every_policy_sees_the_same_arrivals(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(policies, "jinfer_bench", fake_bench(calls))
    words = [
        "models/Qwen3-8B",
        "--rates",
        "2.5",
        "--trace",
        "azure.csv",
        "--record",
        "--results",
        str(tmp_path),
    ]
    assert policies.main(words) == 1, "one policy failed"
    assert [call[-1] for call in calls] == [f"scheduling_policy={policy}" for policy in policies.POLICIES]
    assert len({call[:-1] for call in calls}) == 1
    assert calls[0][:5] == ("throughput", "poisson-2.5", "azure", "--config", "models/Qwen3-8B")
    assert {"--trace", "azure.csv", "--speed", "2", "--duration", "60"} < set(calls[0])
    _, first, *_, failed, picture = capsys.readouterr().out.splitlines()
    assert first.split() == ["mixed", "poisson-2.5", "20.0", "90.0", "8.0", "16.0", "1,000"]
    assert failed == "decode_first    failed: it ended with status 1"
    assert Path(picture).read_bytes()[:4] == b"\x89PNG"


def test_each_percentile_is_kept_with_the_issue_s_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "jinfer_bench", fake_bench([]))
    policies.main(["Qwen3-8B", "--rates", "4", "--trace", "t.csv", "--record", "--results", str(tmp_path)])
    lines = [
        json.loads(line) for line in (tmp_path / "nvidia-h200" / "engine.jsonl").read_text().splitlines()
    ]
    ids = {line["id"]: line for line in lines}
    assert {"8b-azure-p99-tpot", "8b-azure-p99-tpot-prefill-first"} < ids.keys()
    ttft = ids["policy-8b-prefill-first-poisson-4-p99-ttft"]
    assert list(ttft) == [
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
    assert (ttft["value"], ttft["percent_of_limit"]) == (90.0, 4.4)
    assert len(ids) == 4 + 2 * 2 * 4
    assert all("details" not in line for line in lines)


def test_an_unknown_policy_is_an_error(capsys):
    with pytest.raises(SystemExit):
        policies.main(["Qwen3-8B", "--policies", "mixed,random"])
    assert (
        "no policy is called random; there are mixed, prefill_first, decode_first" in capsys.readouterr().err
    )
