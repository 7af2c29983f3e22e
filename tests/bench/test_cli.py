"""`jinfer bench` from end to end on a tiny model: what it prints, writes and refuses."""

import errno
import functools
import itertools
import json
import re
import sys

import jax
import pytest

from benchmarks import trace
from jinfer import cli
from jinfer.bench import opening, start, steady
from jinfer.bench.json_lines import command_text
from jinfer.bench.limits import MachineLimits
from jinfer.bench.workloads import Lengths
from tests.conftest import CACHE, COMPILES_FAST
from tests.end_to_end.cli.helpers import Failing, wrapped
from tests.tiny_model import CONFIG

LINE_KEYS = ["id", "value", "unit", "limit", "percent_of_limit", "date", "versions", "command"]
ENGINE = (
    *("--max-num-seqs", "4", "--max-num-batched-tokens", "16", "--page-size", "4"),
    *("--compilation-cache-dir", CACHE.name, "--no-progress"),
)
ONE_ROW = ("--max-num-seqs", "1", "--max-num-batched-tokens", "16")  # two shapes to compile
LATENCY = ("latency", "b2-8", "ttft-8", "--output-len", "6")
MACHINE = MachineLimits(read_tb_per_s=4.0, copy_tb_per_s=3.0, matmul_tflop_per_s=700.0)
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:4{second}.0000000,{8 + second},4\n" for second in range(5)
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "Tiny-Qwen3"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


@pytest.fixture
def bench(tiny, capsys, monkeypatch):
    """Runs the command in this process, on a machine that is known."""
    monkeypatch.setattr("jinfer.bench.cli.machine_limits", lambda: MACHINE)

    def run(*words, options=("--config", tiny)):
        engine = ENGINE if "start" not in words else ONE_ROW
        status = cli.main(["bench", *map(str, [*words, *options, *engine])])
        return status, *capsys.readouterr()

    return run


def test_the_table_has_a_row_for_each_workload(bench):
    status, out, err = bench(*LATENCY, "--repeats", 2)
    assert status == 0, err
    limits, head, *rows = out.splitlines()
    assert limits == "measured limits: read 4.000 TB/s, copy 3.000 TB/s, bfloat16 matmul 700.0 TFLOP/s"
    assert head.split()[:3] == ["workload", "value", "unit"]
    assert [row.split()[0] for row in rows] == ["tiny-qwen3-b2-8", "tiny-qwen3-ttft-8"]
    assert "running" not in err


def test_json_has_the_agreed_form(bench):
    status, out, err = bench(
        "throughput", "2x8", "prefill-2x8", "shared-2x16+4", "--output-len", 4, "--repeats", 1, "--json", "-"
    )
    assert status == 0, err
    printed = [json.loads(line) for line in out.splitlines()]
    assert [line["id"] for line in printed] == [
        "tiny-qwen3-2x8",
        "tiny-qwen3-prefill-2x8",
        "tiny-qwen3-shared-2x16+4",
    ]
    for line in printed:
        assert list(line) == [*LINE_KEYS, "details"]
        assert 0 <= line["percent_of_limit"] <= 100
        assert line["command"].startswith("jinfer bench throughput 2x8 prefill-2x8")
        assert "--json" not in line["command"]
        assert line["versions"]["jax"] == jax.__version__


def test_json_goes_to_a_file_beside_the_table(bench, tmp_path):
    status, out, _ = bench(*LATENCY, "--repeats", 1, "--json", tmp_path / "out.jsonl")
    assert status == 0
    assert len(out.splitlines()) == 4
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_a_trace_and_random_arrivals_are_replayed(bench, tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    status, out, err = bench(
        "throughput", "azure", "--trace", file, "--speed", 20, "--duration", 4, "--json", "-", "--repeats", 1
    )
    assert status == 0, err
    (line,) = map(json.loads, out.splitlines())
    assert line["id"] == "tiny-qwen3-azure-p99-tpot"
    assert line["details"]["num_requests"] == 4
    assert line["details"]["seconds"] >= 3 / 20
    assert 0 < line["details"]["p50_ttft_ms"] <= line["details"]["p99_ttft_ms"]


def test_figures_are_told_while_it_runs(tiny, capsys, monkeypatch):
    monkeypatch.setattr("jinfer.bench.cli.machine_limits", lambda: MACHINE)
    ticks = itertools.count()
    monkeypatch.setattr(opening, "Monitor", functools.partial(opening.Monitor, clock=lambda: next(ticks)))
    words = [
        "bench",
        "latency",
        "ttft-8",
        "--repeats",
        "1",
        "--config",
        str(tiny),
        *ENGINE[:-1],
        "--progress",
    ]
    assert cli.main(words) == 0
    assert re.search(
        r"ttft-8 +\d+\.0 s  running \d  waiting \d  pages \d+ used 0 cached", capsys.readouterr().err
    )


def test_the_device_alone_is_timed_and_the_engine_left_idle(tiny):
    options = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "page_size": 4}
    with opening.open_bench(opening.Source(config=tiny), options, MACHINE, 1, 0, False) as opened:
        engine = opened.parts.engine
        milliseconds = steady.device_step_ms(opened.bench.session, engine, [Lengths(8, 20)] * 2)
        assert engine.executor.state.rows.lengths.max() <= 8 + 20, (
            "rows were stepped out of the pages that they had"
        )
        assert 0 < milliseconds < 60_000, "of a step that takes less than one"
        assert "dispatch" not in vars(engine.executor), "what the measurement put there is gone"
        assert not engine.has_work
        engine.check_integrity()
        assert opened.bench.session.run([Lengths(8, 4)]) > 0


def test_a_profile_names_steps_stations_and_requests(bench, tmp_path, capsys):
    status, _, err = bench(
        "latency", "b2-8", "--output-len", 30, "--repeats", 1, "--profile", tmp_path / "trace"
    )
    assert status == 0, err
    assert "a trace of b2-8 is in" in err
    found = trace.read_trace(tmp_path / "trace" / "b2-8")
    assert set(found.stations_us) == {"schedule", "dispatch", "make_batch", "read"}
    assert found.num_steps > 10
    dispatches = [event for event in found.host if event.name == "dispatch"]
    assert {event.arguments["kind"] for event in dispatches} == {"decode"}
    assert all(re.fullmatch(r"bench-\d+\|bench-\d+", event.arguments["requests"]) for event in dispatches)
    assert trace.main([str(tmp_path / "trace" / "b2-8")]) == 0
    is_cpu = jax.default_backend() == "cpu"
    assert ("no kernels" in capsys.readouterr().out) == is_cpu, "a CPU has no streams, and a GPU has"


def test_start_is_measured_in_processes_of_their_own(bench, monkeypatch):
    for name, value in COMPILES_FAST.items():
        monkeypatch.setenv(name, value)
    compiled: list[set[str]] = []

    def watched(source, options, cache) -> start.Start:
        result = start_once(source, options, cache)
        compiled.append({file.name for file in (cache / "xla").rglob("executable-*")})
        return result

    start_once = start.start_once
    monkeypatch.setattr(start, "start_once", watched)
    status, out, err = bench("start", "--json", "-")
    assert status == 0, err
    assert compiled[0] == compiled[1] != set(), "the second found its programs compiled"
    cold, warm = map(json.loads, out.splitlines())
    assert (cold["id"], warm["id"]) == ("tiny-qwen3-start-cold", "tiny-qwen3-start-warm")
    assert cold["value"] > cold["details"]["engine_s"]
    stages = [name for name in cold["details"] if name != "engine_s"]
    assert stages[:2] == ["loading_the_weights_s", "waiting_for_what_steps_need_s"]
    assert stages[2].startswith("compiling_")
    assert sum(cold["details"][name] for name in stages) < cold["details"]["engine_s"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("latency", "b2"), "unknown latency workload 'b2'; there are b1, bROWS-PROMPT"),
        (("throughput", "azure"), "the workload azure replays a trace: give --trace FILE.csv"),
        (("throughput", "azure", "--trace", "nowhere.csv"), "--trace nowhere.csv: there is no such file"),
        (
            ("latency", "ttft-48"),
            "'ttft-48' has a request of 48 tokens in and 1 out, and the context holds 48",
        ),
        (("latency", "b5-8", "--output-len", "2"), "'b5-8' runs 5 requests together, and max_num_seqs=4"),
        (("latency", "b1", "--set", "page_size"), "--set 'page_size' must be NAME=VALUE"),
        (("latency", "b1", "--set", "pagesize=4"), "unknown engine option 'pagesize'; the options are dtype"),
        (
            ("throughput", "poisson-4", "--profile", "trace"),
            "--profile shows steady steps, and arrivals have none",
        ),
        (
            ("latency", "ttft-8", "--json", "nowhere/out.jsonl"),
            "--json nowhere/out.jsonl cannot be written: [Errno 2]",
        ),
        (("latency", "ttft-8", "--json", "."), "--json . cannot be written: [Errno 21]"),
        (("latency", "b1", "--set", "num_pages=2000000000"), "pages of 4 tokens needs"),
        (("latency", "b1", "--max-model-len", "49"), "max_model_len=49 exceeds the 48 positions"),
        (
            ("throughput", "poisson-0.001", "--duration", "1", "--max-model-len", "9"),
            "and the context holds 9",
        ),
        (("start", "--json", "nowhere/out.jsonl"), "--json nowhere/out.jsonl cannot be written: [Errno 2]"),
        (
            ("start", "--set", "num_pages=1"),
            "num_pages=1: page 0 takes the writes of padding, so at least 2 are needed",
        ),
        (("start", "--set", "pagesize=4"), "unknown engine option 'pagesize'; the options are dtype"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do_before_anything_starts(
    bench, monkeypatch, words, message
):
    for name in ("machine_limits", "open_bench", "measure_starts"):
        monkeypatch.setattr(f"jinfer.bench.cli.{name}", lambda *arguments: pytest.fail("it started"))
    status, out, err = bench(*words)
    assert status == 1
    assert message in err
    assert out == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n\xff,1,2\n", "'utf-8' codec can't decode"),
        (b'TIMESTAMP,ContextTokens,GeneratedTokens\n"' + b"x" * (1 << 18) + b'",1,2\n', "field larger than"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,8,1\n", "no request has two output tokens"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request has two output tokens"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\nnow,8,1\n", "line 2: a line of a trace has TIMESTAMP"),
    ],
)
def test_a_trace_that_is_none_is_an_error(bench, tmp_path, content, reason):
    (tmp_path / "trace.csv").write_bytes(content)
    status, out, err = bench("throughput", "azure", "--trace", tmp_path / "trace.csv")
    assert (status, out) == (1, "")
    assert reason in err
    assert "Traceback" not in err


def test_a_full_disk_at_stdout_is_an_error(bench, monkeypatch):
    monkeypatch.setattr(
        sys, "stdout", wrapped(Failing(200, OSError(errno.ENOSPC, "No space left on device")))
    )
    status, _, err = bench("latency", "ttft-8", "--repeats", 1)
    assert status == 1
    assert "jinfer: error: stdout cannot be written: [Errno 28] No space left on device" in err


def test_a_reader_that_goes_ends_it_quietly(bench, monkeypatch):
    monkeypatch.setattr(sys, "stdout", wrapped(Failing(200, BrokenPipeError(errno.EPIPE, "Broken pipe"))))
    status, _, err = bench("latency", "ttft-8", "ttft-4", "--repeats", 1)
    assert status == 141
    assert "error" not in err


def test_json_that_a_full_disk_does_not_take(bench):
    status, _, err = bench("latency", "ttft-8", "--repeats", 1, "--json", "/dev/full")
    assert status == 1
    assert "jinfer: error: --json /dev/full cannot be written: [Errno 28]" in err


def test_a_directory_without_a_config_is_an_error(bench, tmp_path):
    status, _, err = bench("latency", "b1", options=("--config", tmp_path))
    assert status == 1
    assert f"--config {tmp_path}: there is no config.json in it" in err


def test_an_engine_that_does_not_start_says_why(bench):
    status, _, err = bench("start", "--set", "gpu_memory_utilization=1e-9")
    assert status == 1
    assert "an engine did not start" in err
    assert "InsufficientMemoryError" in err


@pytest.mark.parametrize(
    "words", [("--repeats", "0"), ("--output-len", "-1"), ("--model", "x", "--config", "y")]
)
def test_malformed_options_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "latency", "b1", *words])
    assert "usage: jinfer bench latency" in capsys.readouterr().err


def test_commands_can_be_repeated_elsewhere():
    words = ["jinfer", "bench", "latency", "b1", "--config", "/a/b/Qwen3-8B", "--json", "-", "--device-time"]
    assert command_text(words) == "jinfer bench latency b1 --config Qwen3-8B --device-time"
    assert command_text(["jinfer", "bench", "--json=/x", "b1"]) == "jinfer bench b1"
