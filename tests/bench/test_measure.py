"""The arithmetic of every figure, on an engine whose steps take known times."""

import io
from dataclasses import replace

import pytest

from jinfer import ConfigError, EngineError, RequestError
from jinfer.bench.arrivals import Arrival
from jinfer.bench.ids import model_prefix
from jinfer.bench.measure import measure
from jinfer.bench.monitor import Monitor
from jinfer.bench.percentiles import percentiles
from jinfer.bench.results import Result, header, result_text
from jinfer.bench.roofline import ExpertsWork, decode_step_s, least_seconds, shared_prefix_seconds
from jinfer.bench.workloads import Lengths, find_workload
from jinfer.engine.stats import EngineStats
from jinfer.requests.request import FinishReason
from tests.bench.fakes import DECODE_S, MACHINE, PREFILL_S, WORK, FakeEngine, fake_bench
from tests.models.configs import with_windows


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def measured(engine, kind, name, output_len=10, **options) -> Result:
    return measure(fake_bench(engine, **options), find_workload(kind, name, output_len))


def test_tpot_is_the_time_of_m_more_tokens_over_m(engine):
    result = measured(engine, "latency", "b4-16")
    assert (result.id, result.unit) == ("8b-b4-16", "ms")
    assert result.value == pytest.approx(DECODE_S * 1e3)
    assert result.details["first_tokens_s"] == pytest.approx(4 * PREFILL_S)
    assert result.details["output_tokens_per_s"] == pytest.approx(4 / DECODE_S)
    assert len(result.details["each_ms"]) == 3


def test_ttft_is_the_time_of_one_token(engine):
    assert measured(engine, "latency", "ttft-16").value == pytest.approx(PREFILL_S * 1e3)


def test_output_rate_counts_outputs_and_all_of_the_time(engine):
    result = measured(engine, "throughput", "3x16")
    assert result.value == pytest.approx(30 / (3 * PREFILL_S + 9 * DECODE_S))
    assert result.details["num_prompt_tokens"] == 48


def test_input_rate_counts_prompts(engine):
    assert measured(engine, "throughput", "prefill-3x16").value == pytest.approx(48 / (3 * PREFILL_S))


def test_sharing_compares_the_last_first_tokens(engine):
    result = measured(engine, "throughput", "shared-3x16+4")
    assert result.value == pytest.approx(1), "this engine shares nothing"
    assert result.details["last_shared_ms"] == pytest.approx(3 * PREFILL_S * 1e3)
    prefixes = [prompt[:16] for prompt in engine.prompts[3:]]
    assert len(set(prefixes[:9])) == 9, "three runs of prompts that share nothing"
    assert len(set(prefixes[9:])) == 3, "three runs, each with a prefix of its own"


def test_no_run_repeats_a_prompt_that_a_cache_may_hold(engine):
    measured(engine, "latency", "b2-16")
    assert len(set(engine.prompts)) == len(engine.prompts) == 2 + 3 * (2 + 2)


def test_arrivals_come_when_they_are_due_and_are_timed_from_then(engine):
    arrivals = [
        Arrival(0.0, Lengths(8, 3)),
        Arrival(PREFILL_S / 2, Lengths(8, 2)),
        Arrival(5.0, Lengths(8, 1)),
    ]
    result = measure(fake_bench(engine), find_workload("throughput", "azure", 1), arrivals)
    # 0: first alone until 0.1; second was due at 0.05, has its token with the first's second at 0.2, then
    # 0.205
    assert result.id == "8b-azure-p99-tpot"
    assert result.details["p99_ttft_ms"] == pytest.approx(150)
    assert result.details["p50_ttft_ms"] == pytest.approx(100, abs=1)
    assert result.value == pytest.approx((PREFILL_S + DECODE_S) / 2 * 1e3)
    assert result.details["p50_tpot_ms"] == pytest.approx(DECODE_S * 1e3)
    assert result.details["num_requests"] == 3
    assert engine.slept > 100, "nothing ran for five seconds"
    assert result.limit == pytest.approx(1e9 / 4e12 * 1e3)


def test_another_policy_has_another_id(engine):
    arrivals = [Arrival(0.0, Lengths(8, 3))]
    bench = fake_bench(engine, policy="prefill_first")
    result = measure(bench, find_workload("throughput", "poisson-2.5", 1), arrivals)
    assert result.id == "8b-poisson-2.5-p99-tpot-prefill-first"


def test_requests_of_one_token_have_no_tpot(engine):
    with pytest.raises(ConfigError, match="no request has two output tokens"):
        measure(fake_bench(engine), find_workload("throughput", "azure", 1), [Arrival(0.0, Lengths(8, 1))])


@pytest.mark.parametrize("name", ["b1", "b64-1024", "ttft-512", "ttft-8000"])
def test_latency_stays_below_the_limit(engine, name):
    assert 0 < measured(engine, "latency", name).percent_of_limit <= 100


@pytest.mark.parametrize("name", ["mixed256", "256x1024", "prefill-32x2048", "shared-prefix"])
def test_throughput_stays_below_the_limit(engine, name):
    assert 0 < measured(engine, "throughput", name, repeats=1).percent_of_limit <= 100


def test_a_workload_that_does_not_fit_says_so_before_it_runs(engine):
    with pytest.raises(
        RequestError, match=r"'ttft-9000' has a request of 9000 tokens in and 1 out, .* holds 8192"
    ):
        measured(engine, "latency", "ttft-9000")
    with pytest.raises(ConfigError, match=r"'b257-16' runs 257 requests together, and max_num_seqs=256"):
        measured(engine, "latency", "b257-16")
    assert engine.prompts == []


def test_a_request_that_failed_is_no_measurement(engine, monkeypatch):
    def fail(request):
        (sequence,) = request.sequences
        sequence.finish_reason, sequence.error = FinishReason.ERROR, "logits that are not finite"

    monkeypatch.setattr(engine, "_token", fail)
    with pytest.raises(EngineError, match=r"ended with 0 of 1 tokens .*not finite.*means nothing"):
        measured(engine, "latency", "ttft-16")


def test_decode_reads_the_weights_and_what_each_row_sees():
    # 2 layers, keys and values of 2 heads of 8 in 2 bytes: 128 bytes a position
    assert WORK.kv_bytes(1, 1) == 128
    step = decode_step_s(WORK, MACHINE, [Lengths(100, 3)] * 4)
    assert step == pytest.approx((1e9 + 4 * 128 * (101 + 102) / 2) / 4e12)


def test_decode_reads_the_experts_that_some_row_has():
    work = replace(WORK, experts=(ExpertsWork(8 * 10**9, num_experts=4, top_k=1),))
    lengths = Lengths(1, 2)
    without = [decode_step_s(WORK, MACHINE, [lengths] * rows) for rows in (1, 2)]
    steps = [decode_step_s(work, MACHINE, [lengths] * rows) for rows in (1, 2)]
    # A row reads one in four; of two rows each has its own three times in four.
    assert steps[0] - without[0] == pytest.approx(2e9 / 4e12)
    assert steps[1] - without[1] == pytest.approx(2e9 * 1.75 / 4e12)


def test_the_least_time_reads_experts_as_full_steps_do_or_one_row():
    experts = ExpertsWork(8 * 10**9, num_experts=4, top_k=1)
    work = replace(WORK, weight_bytes=0, experts=(experts,))
    fast = type(MACHINE)(read_tb_per_s=1.0, copy_tb_per_s=1.0, matmul_tflop_per_s=1e9)
    two = least_seconds(work, fast, [Lengths(1, 3), Lengths(1, 3)], 4)
    assert two == pytest.approx(3 * experts.read_bytes(2) / 1e12, rel=1e-4)
    uneven = least_seconds(work, fast, [Lengths(1, 9), Lengths(1, 1)], 4)
    assert uneven == pytest.approx(9 * experts.read_bytes(1) / 1e12, rel=1e-4)


def test_the_least_time_adds_linear_layers_attention_and_cache():
    one = Lengths(10, 1)
    assert WORK.linear_params == 2 * ((2 * 4 + 2 * 2) * 8 * 32 + 3 * 32 * 48)
    newest_only = 2 * 4 * 8 * 32 + 3 * 32 * 48  # of the last layer: no other's queries and MLP are asked for
    linear = 2 * (WORK.linear_params * 10 - newest_only * 9) + 2 * 64 * 32
    attention = 4 * 4 * 8 * (55 + 10)
    slow = type(MACHINE)(read_tb_per_s=1e9, copy_tb_per_s=1e9, matmul_tflop_per_s=1.0)
    assert least_seconds(WORK, slow, [one], 4) == pytest.approx((linear + attention) / 1e12)
    fast = type(MACHINE)(read_tb_per_s=1.0, copy_tb_per_s=1.0, matmul_tflop_per_s=1e9)
    outputs = [Lengths(10, 3), Lengths(10, 2)]
    assert least_seconds(WORK, fast, outputs, 4) == pytest.approx(
        (3 * 1e9 + 128 * (11 + 12 + 11)) / 1e12, rel=1e-6
    )
    assert least_seconds(WORK, fast, outputs, 1) == pytest.approx(5 * 1e9 / 1e12, rel=1e-3), (
        "one row at a time"
    )


def test_windows_hide_positions():
    windowed = replace(WORK, config=with_windows(WORK.config, (None, 4)))
    assert windowed.kv_bytes(1, 10) == 64 * (55 + (1 + 2 + 3 + 7 * 4))
    assert windowed.kv_bytes(7, 10) == 64 * (7 + 8 + 9 + 10 + 4 * 4)


def test_a_shared_prefix_is_computed_once():
    slow = type(MACHINE)(read_tb_per_s=1e9, copy_tb_per_s=1e9, matmul_tflop_per_s=1.0)
    shared = shared_prefix_seconds(WORK, slow, 100, 10, 8)
    newest_only = 2 * 4 * 8 * 32 + 3 * 32 * 48
    linear = 2 * (WORK.linear_params * 180 - newest_only * (99 + 8 * 9)) + 2 * 64 * 32 * 8
    seen = sum(range(1, 101)) + 100 + 8 * (sum(range(101, 111)) + 110)
    assert shared == pytest.approx((linear + 4 * 4 * 8 * seen) / 1e12)
    assert shared_prefix_seconds(WORK, MACHINE, 1, 1, 1) == pytest.approx(1e9 / 4e12, rel=1e-3), "the weights"


def test_percentiles_are_of_the_nearest_rank():
    assert percentiles("ttft", [i / 1000 for i in range(100, 0, -1)]) == {
        "p50_ttft_ms": 50.0,
        "p99_ttft_ms": 99.0,
    }
    assert percentiles("ttft", [0.25]) == {"p50_ttft_ms": 250.0, "p99_ttft_ms": 250.0}
    assert percentiles("ttft", []) == {}


@pytest.mark.parametrize(
    ("name", "prefix"), [("Qwen3-0.6B", "qwen3-0-6b"), ("My.Model_x", "my-model-x"), ("?", "model")]
)
def test_ids_begin_with_the_model(name, prefix):
    assert model_prefix(name) == prefix


def test_percent_has_the_sense_of_the_unit():
    assert Result("a", 8.0, "ms", 6.0).percent_of_limit == 75
    assert Result("a", 6.0, "tokens/s", 8.0, more_is_better=True).percent_of_limit == 75
    assert Result("a", 1234.5678, "ms", 6.0).line() == {
        "id": "a",
        "value": 1235.0,
        "unit": "ms",
        "limit": 6.0,
        "percent_of_limit": 0.5,
    }


def test_columns_stand_under_their_names():
    line = result_text(
        Result("8b-mixed256", 11234.5, "tokens/s", 14000.0, more_is_better=True, details={"x": [1.5]})
    )
    assert line.split() == ["8b-mixed256", "11,234", "tokens/s", "14,000", "80.2%", "x", "[1.5]"]
    assert line.index("80.2%") + len("80.2%") == header().index("of limit") + len("of limit")


def test_the_monitor_speaks_once_a_second(engine):
    engine.stats = lambda: EngineStats(2, 5, 7, 0, 3, 0, 0, 0, 0)
    stream = io.StringIO()
    bench = fake_bench(engine, repeats=1)
    bench.session.after_step = Monitor(engine, stream, clock=lambda: engine.now)
    bench.session.run([Lengths(4, 441)])  # 0.1 s, then 440 steps of 5 ms
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("running 2  waiting 5  pages 7 used 0 cached 3 free  200 tokens/s")


def test_eight_bits_on_both_sides_take_half_the_time():
    work = replace(WORK, weight_bytes=0)
    machine, prompt = replace(MACHINE, matmul_tflop_per_s=1e-3), [Lengths(9, 1)]
    linear, others = work.prompt_flops(1, 9), work.attention_flops(1, 9) + 2 * work.head_params
    assert least_seconds(work, machine, prompt, 4) == pytest.approx((linear + others) / 1e9)
    faster = replace(work, linear_rate=2)
    assert least_seconds(faster, machine, prompt, 4) == pytest.approx((linear / 2 + others) / 1e9)
