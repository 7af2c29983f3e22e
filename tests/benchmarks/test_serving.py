"""The rows of serving: small loads on the shared server and on an engine of this process, and their lines."""

import asyncio
import contextlib
import json

import pytest

from benchmarks.record import newest_lines
from benchmarks.serving import __main__ as serving
from benchmarks.serving import offline, served
from benchmarks.serving.cases import (
    CASES,
    ITL_P99,
    OFFLINE,
    PENALTIES,
    SERVED,
    STRUCTURED,
    TTFT_ADDED,
    VS_OFFLINE,
    result,
    sized,
)
from jinfer import ConfigError, JinferError
from jinfer.bench.opening import Source
from jinfer.bench.serve.load import LoadError
from pallas_kernels.core.device import target_device
from tests.checkpoints import TINY_ENGINE, write_checkpoint

SMALL = {"num_requests": 2, "prompt_len": 6, "output_len": 12, "repeats": 1}
SMALL_WORDS = [word for name, size in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(size))]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    directory = write_checkpoint(tmp_path_factory.mktemp("offline"))
    with Source(str(directory)).start(TINY_ENGINE) as parts:
        yield parts


@pytest.mark.parametrize(
    ("case_id", "alone", "beside", "expected"),
    [
        (
            VS_OFFLINE,
            {"output_tokens_per_s": 200},
            {"output_tokens_per_s": 190},
            (95.0, "percent", 100, 95.0),
        ),
        (
            VS_OFFLINE,
            {"output_tokens_per_s": 200},
            {"output_tokens_per_s": 201},
            (100.5, "percent", 100, 100),
        ),
        (
            VS_OFFLINE,
            {"output_tokens_per_s": 200},
            {"output_tokens_per_s": 220},
            (110.0, "percent", 100, 110),
        ),
        (TTFT_ADDED, {"p50_ttft_ms": 36.0}, {"p50_ttft_ms": 40.0}, (4.0, "ms", 0, 90.0)),
        (ITL_P99, {}, {"p50_itl_ms": 8.0, "p99_itl_ms": 10.0}, (1.25, "ratio", 1, 80.0)),
        (
            STRUCTURED,
            {},
            {"free_tokens_per_s": 50, "structured_tokens_per_s": 46},
            (92.0, "percent", 100, 92.0),
        ),
        (PENALTIES, {"plain_step_ms": 10.0, "penalties_step_ms": 12.5}, {}, (1.25, "ratio", 1, 80.0)),
    ],
)
def test_figures_make_a_line(case_id, alone, beside, expected):
    line = result(case_id, alone, beside)
    assert line["id"] == case_id
    assert (line["value"], line["unit"], line["limit"], line["percent_of_limit"]) == expected


def test_no_two_runs_have_the_same_prompts():
    runs = [(case, run) for case in CASES.values() for run in range(6)]
    prompts = {tuple(sized(case, num_requests=1).prompts(run)[0][:64]) for case, run in runs}
    assert len(prompts) == len(runs)
    few = sized(CASES[VS_OFFLINE], num_requests=2)
    assert few.prompts(0) == few.prompts(0)


def test_each_case_of_the_engine_alone_is_measured(parts):
    case = sized(CASES[TTFT_ADDED], **SMALL)
    assert offline.measured(parts, sized(case, rate_per_s=50.0))["p50_ttft_ms"] > 0
    assert offline.measured(parts, sized(CASES[VS_OFFLINE], **SMALL))["output_tokens_per_s"] > 0
    steps = offline.measured(parts, sized(CASES[PENALTIES], **SMALL))
    assert steps["plain_step_ms"] > 0
    assert steps["penalties_step_ms"] > 0


def test_rows_that_do_not_run_together_are_refused(parts):
    with pytest.raises(ConfigError, match="serve-penalties runs 3 rows together, and max_num_seqs=2"):
        offline.measured(parts, sized(CASES[PENALTIES], **{**SMALL, "num_requests": 3}))


def test_rows_that_never_decode_together_have_no_step_time(parts):
    with pytest.raises(ConfigError, match=r"all 2 rows a token.*raise --output-len 1"):
        offline.measured(parts, sized(CASES[PENALTIES], **{**SMALL, "output_len": 1}))


def test_the_cases_of_a_server_are_recorded(server, tmp_path, monkeypatch, capsys):
    """The command, with this server in place of one that it starts, and the engine alone as if it had run."""

    def json_lines(command, request):
        assert [case["id"] for case in request["cases"]] == [VS_OFFLINE, PENALTIES]
        yield {"directory": "tiny", "command": request["command"], "date": "2026-01-01", "versions": {}}
        yield {"case": VS_OFFLINE, "output_tokens_per_s": 1e9}
        yield {"case": PENALTIES, "plain_step_ms": 4.0, "penalties_step_ms": 2.0}

    started = []
    monkeypatch.setattr(serving, "json_lines", json_lines)
    monkeypatch.setattr(
        serving, "running_server", lambda given: started.append(given) or contextlib.nullcontext(server)
    )
    file = tmp_path / "serving.jsonl"
    words = ["--config", "/models/Tiny", "--results", str(file), "--serve-option", "grace_s=1", *SMALL_WORDS]
    assert serving.main([VS_OFFLINE, PENALTIES, STRUCTURED, *words]) == 1
    out, err = capsys.readouterr()
    assert "serve-penalties (200.0%); run again" in err
    assert started == [
        {"model": "/models/Tiny", "dummy_weights": True, "grace_s": 1, "compile_split_steps": "at_start"}
    ]
    printed = {line["id"]: line for line in map(json.loads, out.splitlines())}
    assert list(printed) == [PENALTIES, VS_OFFLINE, STRUCTURED]
    line, recorded = printed[VS_OFFLINE], newest_lines(file)
    assert PENALTIES not in recorded
    assert recorded[VS_OFFLINE] == line
    assert list(line)[:7] == ["id", "value", "unit", "limit", "percent_of_limit", "commit", "command"]
    assert line["details"]["served"]["output_tokens_per_s"] > 0
    assert "--config Tiny --serve-option grace_s=1" in line["command"]
    figures = printed[STRUCTURED]["details"]["served"]
    assert min(figures["free_tokens_per_s"], figures["structured_tokens_per_s"]) > 0


def test_a_case_that_fails_ends_no_other(server, tmp_path, monkeypatch, capsys):
    async def measured(url, case):
        if case.id == VS_OFFLINE:
            raise LoadError("the server is gone")
        return {"p50_itl_ms": 8.0, "p99_itl_ms": 10.0}

    head = {"directory": "tiny", "command": "x"}
    monkeypatch.setattr(serving, "json_lines", lambda command, request: [head])
    monkeypatch.setattr(serving, "measured", measured)
    monkeypatch.setattr(serving, "running_server", lambda given: contextlib.nullcontext(server))
    file = tmp_path / "serving.jsonl"
    assert serving.main([VS_OFFLINE, ITL_P99, "--results", str(file)]) == 1
    assert "the server is gone" in capsys.readouterr().err
    assert newest_lines(file)[ITL_P99]["value"] == 1.25


def test_first_tokens_are_measured_at_a_rate(server):
    case = sized(CASES[TTFT_ADDED], **SMALL, rate_per_s=50.0)
    assert asyncio.run(served.measured(server.url, case))["p50_ttft_ms"] > 0


def test_gaps_are_those_of_the_middle_load(monkeypatch):
    p99s = iter([12.0, 9.0, 10.0])

    async def load(url, case, run):
        return {"p50_itl_ms": 8.0, "p99_itl_ms": next(p99s, 8.0), "tokens_per_chunk": 1.0, "p99_lag_ms": 0.1}

    monkeypatch.setattr(served, "load", load)
    figures = asyncio.run(served.measured("", CASES[ITL_P99]))
    assert (figures["p50_itl_ms"], figures["p99_itl_ms"]) == (8.0, 10.0)

    async def at_once(url, case, run):
        return {"p50_itl_ms": 0.0, "p99_itl_ms": 1.0}

    monkeypatch.setattr(served, "load", at_once)
    with pytest.raises(LoadError, match="half of the chunks came with another one"):
        asyncio.run(served.measured("", CASES[ITL_P99]))


def test_answers_that_fail_are_no_measurement(server):
    case = sized(CASES[VS_OFFLINE], **{**SMALL, "prompt_len": 500})
    with pytest.raises(LoadError, match="http 400: the prompt has 500 tokens"):
        asyncio.run(served.measured(server.url, case))


def test_an_error_is_told_without_a_traceback(monkeypatch, capsys):
    def fail(command, request):
        raise JinferError("there is no such model")

    monkeypatch.setattr(serving, "json_lines", fail)
    assert serving.main([PENALTIES]) == 1
    assert "there is no such model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        serving.main(["serve-x"])
    assert "no case is called serve-x; there are serve-vs-offline" in capsys.readouterr().err
    assert set(OFFLINE) | set(SERVED) == set(CASES)


def test_the_child_measures_what_it_is_asked_for(tmp_path, capsys):
    request = {"model": None, "config": None, "options": {}, "cases": [], "command": "x"}
    assert offline.main(request) == 0
    circumstances = json.loads(capsys.readouterr().out)
    assert circumstances["directory"] == target_device().file_name
    assert circumstances["command"] == "x"
    missing = {**request, "config": str(tmp_path), "cases": [vars(CASES[PENALTIES])]}
    assert offline.main(missing) == 1
    assert "there is no config.json in it" in capsys.readouterr().err
