"""What each name stands for."""

import random

import pytest

from jinfer import ConfigError
from jinfer.bench.arrivals import poisson_arrivals, trace_arrivals
from jinfer.bench.workloads import Lengths, Measure, find_workload, random_prompts, shared_prompts

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:56.6805900,12,1
"""


def latency(name: str):
    return find_workload("latency", name, 128)


def throughput(name: str):
    return find_workload("throughput", name, 128)


def test_mixed256_is_the_agreed_recipe():
    workload = throughput("mixed256")
    assert (workload.num_prompt_tokens, workload.num_output_tokens) == (144_831, 144_160)
    rng = random.Random(0)
    assert [each.prompt for each in workload.requests] == [rng.randint(100, 1024) for _ in range(256)]
    assert [each.output for each in workload.requests] == [rng.randint(100, 1024) for _ in range(256)]


@pytest.mark.parametrize(
    ("name", "rows", "lengths"),
    [
        ("b1", 1, (128, 129)),
        ("b16-1024", 16, (1024, 129)),
        ("b64-2048", 64, (2048, 129)),
        ("b256-512", 256, (512, 129)),
        ("ttft-512", 1, (512, 1)),
        ("ttft-15000", 1, (15000, 1)),
    ],
)
def test_latency_workloads(name, rows, lengths):
    workload = latency(name)
    assert workload.requests == (Lengths(*lengths),) * rows
    assert workload.measure is (Measure.TTFT if name.startswith("ttft") else Measure.TPOT)
    assert workload.name == name


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("256x1024", (256 * 1024, 256 * 128)),
        ("1000x1024", (1_024_000, 128_000)),
        ("prefill-32x2048", (65_536, 32)),
        ("prefill-2x64", (128, 2)),
        ("shared-prefix", (16 * 4128, 16)),
        ("shared-3x64+8", (3 * 72, 3)),
    ],
)
def test_throughput_workloads(name, tokens):
    workload = throughput(name)
    assert workload.name == name
    assert (workload.num_prompt_tokens, workload.num_output_tokens) == tokens


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("latency", "mixed256"),
        ("latency", "b0-16"),
        ("latency", "b16"),
        ("latency", "ttft-"),
        ("throughput", "b1"),
        ("throughput", "poisson-0"),
        ("throughput", "poisson--1"),
        ("throughput", "prefill-2048"),
        ("throughput", ""),
    ],
)
def test_an_unknown_workload_is_an_error_that_lists_the_known_ones(kind, name):
    with pytest.raises(
        ConfigError, match=rf"unknown {kind} workload '{name}'; there are .*(b64-1024|mixed256)"
    ):
        find_workload(kind, name, 128)


def test_prompts_have_their_lengths_and_are_new_in_every_run():
    rng, lengths = random.Random(0), (Lengths(5, 1), Lengths(300, 1))
    first, second = random_prompts(lengths, 64, rng), random_prompts(lengths, 64, rng)
    assert [len(prompt) for prompt in first] == [5, 300]
    assert first != second
    assert {token for prompt in first for token in prompt} <= set(range(64))


@pytest.mark.parametrize("is_shared", [True, False])
def test_prompts_share_the_prefix_and_nothing_else(is_shared):
    prompts = shared_prompts(throughput("shared-4x32+8"), 1000, random.Random(0), is_shared=is_shared)
    assert [len(prompt) for prompt in prompts] == [40] * 4
    assert len({prompt[:32] for prompt in prompts}) == (1 if is_shared else 4)
    assert len({prompt[32:] for prompt in prompts}) == 4


def test_a_trace_is_replayed_faster_and_cut_off(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    arrivals = trace_arrivals(file, duration_s=10, speed=2)
    assert [each.lengths for each in arrivals] == [(374, 44), (396, 109)]
    assert [each.time_s for each in arrivals] == pytest.approx([0, (50.995169 - 46.68059) / 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("a,b\n1,2\n", "line 2: a line of a trace has TIMESTAMP, ContextTokens, GeneratedTokens"),
        (TRACE + "yesterday,1,2\n", "line 5: "),
    ],
)
def test_a_trace_that_cannot_be_read_is_an_error(tmp_path, text, message):
    file = tmp_path / "trace.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        trace_arrivals(file, duration_s=100, speed=1)


def test_the_real_trace_is_as_long_as_it_is_said_to_be(shared_data):
    file = shared_data / "traces" / "AzureLLMInferenceTrace_conv.csv"
    if not file.is_file():
        pytest.skip("needs the trace beside the repository")
    arrivals = trace_arrivals(file, duration_s=1e6, speed=1)
    assert len(arrivals) == 19_366
    assert sum(each.lengths.prompt for each in arrivals) / len(arrivals) == pytest.approx(1155, abs=1)
    assert [each.time_s for each in arrivals] == sorted(each.time_s for each in arrivals)


def test_random_arrivals_keep_their_rate_and_their_seed():
    arrivals = poisson_arrivals(20, duration_s=200, seed=1)
    assert len(arrivals) == pytest.approx(4000, rel=0.05)
    assert arrivals == poisson_arrivals(20, duration_s=200, seed=1)
    assert arrivals != poisson_arrivals(20, duration_s=200, seed=2)
    assert all(100 <= length <= 1024 for each in arrivals for length in each.lengths)
