"""The harness from end to end on tiny shapes, and the arithmetic behind its figures."""

import dataclasses
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.kernels import chart, record, run, tune
from benchmarks.kernels.__main__ import main
from benchmarks.kernels.case import Limit, Work, figure, limit_us
from benchmarks.kernels.cases import all_cases, selected
from benchmarks.kernels.data import RandomData, ShapesOnly
from benchmarks.kernels.run import Measured, Row
from benchmarks.kernels.timing import SMOKE, Inputs, compile_chain
from benchmarks.record import append, newest_lines
from jinfer.bench.limits import MachineLimits
from pallas_kernels.core.device import target_device

LINE_KEYS = ["id", "value", "unit", "limit", "percent_of_limit", "commit", "date", "versions", "command"]
LIMITS = MachineLimits(read_tb_per_s=4.0, copy_tb_per_s=3.0, matmul_tflop_per_s=700.0)
CASES = {case.id: case for case in all_cases()}


def output_of(*arguments: str) -> str:
    with redirect_stdout(io.StringIO()) as stream:
        status = main(list(arguments))
    assert status == 0, stream.getvalue()
    return stream.getvalue()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def table(results) -> str:
    """Of one case of every op."""
    return output_of("--smoke", "--record", "--results", str(results))


def test_the_table_has_the_limits_and_a_row_for_every_case(table):
    limits, header, *rows = table.splitlines()
    assert limits.startswith("measured limits: read ")
    assert header.split()[:3] == ["case", "us", "value"]
    names = [row.split()[0] for row in rows]
    ratios = ["kv8-decode-64x2048", "kv8-extend-1x8192-fp8"]
    assert names == [*(case.id for case in all_cases(smoke=True)), "decode-vs-jax", *ratios]
    assert {case.op for case in all_cases(smoke=True)} == {case.op for case in all_cases()}


def test_recorded_lines_have_the_agreed_keys(table, results):
    files = [results / target_device().file_name / name for name in ("kernels.jsonl", "models.jsonl")]
    lines = {name: line for file in files for name, line in newest_lines(file).items()}
    assert lines.keys() == {"decode-vs-jax", *(case.id for case in all_cases(smoke=True))}
    for line in lines.values():
        assert list(line) == LINE_KEYS
        assert 0 <= line["percent_of_limit"] <= 100
        assert line["command"].startswith("python -m benchmarks.kernels --smoke")
        assert line["versions"].keys() == {"jax", "jaxlib", "python", "driver", "device"}
    assert lines["decode-vs-jax"]["limit"] > lines["decode-vs-jax"]["value"] > 0
    assert lines["decode-vs-jax"]["unit"] == "ratio"


def test_json_is_a_line_for_each_row():
    limits, row = map(json.loads, output_of("matmul", "--smoke", "--json").splitlines())
    assert limits["limits"].keys() == {"read_tb_per_s", "copy_tb_per_s", "matmul_tflop_per_s"}
    assert row["op"] == "matmul.matmul"
    assert row["value"] >= 0
    assert row["xla_ratio"] > 0


def test_tuning_writes_what_won_and_keeps_other_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "TIE", float("inf"))  # times mean nothing here
    file = tmp_path / "matmul" / "tuned" / f"{target_device().file_name}.json"
    older = {"key": {"batch": 1}, "blocks": {}, "microseconds": 1.0}
    tune.store(file, "matmul", older)
    text = output_of("tune", "matmul", "--smoke", "--seconds", "10", "--output", str(tmp_path))
    assert "relative error" in text
    (case,) = selected(all_cases(smoke=True), ["matmul"], [])
    first, second = json.loads(file.read_text())["matmul"]
    assert first == older
    assert second["key"] == case.tuning.key
    assert second["blocks"] in [dataclasses.asdict(blocks) for blocks in case.tuning.candidates]
    assert sum("microseconds" in line for line in file.read_text().splitlines()) == 2, "an entry a line"


def test_tuning_keeps_nothing_that_is_wrong(capsys):
    (case,) = selected(all_cases(smoke=True), ["matmul"], [])
    wrong = dataclasses.replace(case, reference=lambda carry, w: (carry, jnp.dot(carry[0], w) * 1.01))
    fast = {blocks: Measured(1.0, False) for blocks in case.tuning.candidates[:1]}
    assert tune._winner(case, dict(fast)) is not None
    assert tune._winner(wrong, dict(fast)) is None
    assert "WRONG, and not kept" in capsys.readouterr().out


def test_a_later_entry_of_the_same_key_replaces_the_earlier(tmp_path):
    for microseconds in (2.0, 1.0):
        tune.store(tmp_path / "x.json", "f", {"key": {"rows": 8}, "blocks": {}, "microseconds": microseconds})
    assert [e["microseconds"] for e in json.loads((tmp_path / "x.json").read_text())["f"]] == [1.0]


def test_a_chain_makes_every_call_with_its_set_and_hands_on_the_carry():
    calls = []

    def step(carry, x):
        jax.debug.callback(lambda carry, x: calls.append((int(carry), int(x))), carry, x)
        return carry + 1, x * carry

    shape = jax.ShapeDtypeStruct((), jnp.int32)
    chain = compile_chain(step, Inputs(shape, [shape, shape]), num_calls=4)
    inputs = Inputs(jnp.int32(1), [jnp.int32(10), jnp.int32(20)])
    carry, results = chain.run((inputs.carry, [jnp.int32(i) for i in range(4)]), inputs.sets)
    assert [int(result) for result in results] == [10, 40, 30, 80]
    assert int(carry) == 5
    assert sorted(calls) == [(1, 10), (2, 20), (3, 10), (4, 20)]
    assert int(chain.time(inputs._replace(carry=carry), SMOKE).inputs.carry) > 5


def test_a_case_that_fails_is_a_row_and_not_the_end():
    (case,) = selected(all_cases(smoke=True), ["matmul"], [])

    def fail(carry, arguments):
        raise ValueError("no such kernel")

    broken = dataclasses.replace(case, build=lambda blocks: fail)
    (row,) = run.measure([broken], LIMITS, smoke=True, progress=lambda text: None)
    assert "no such kernel" in str(row.measured)
    assert record.further_facts(row)["error"] == "ValueError: no such kernel"


def test_shapes_are_those_of_the_arrays():
    for case in all_cases(smoke=True):
        arrays, shapes = case.make(RandomData(0), 2), case.make(ShapesOnly(), 2)
        assert jax.tree.structure(arrays) == jax.tree.structure(shapes)
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(arrays)] == [
            (x.shape, x.dtype) for x in jax.tree.leaves(shapes)
        ]


def test_page_tables_are_permutations_without_the_null_page():
    table = np.asarray(RandomData(0).page_table(3, 5))
    assert sorted(table.ravel()) == list(range(1, 16))
    assert list(table.ravel()) != list(range(1, 16))


def test_figures_in_each_unit():
    read = CASES["decode-64x2048"]
    assert read.work.read_bytes == 2 * 64 * 2048 * 8 * 128 * 2
    at_half = figure(read, read.work.read_bytes / 2e6, LIMITS)
    assert dataclasses.astuple(at_half) == (pytest.approx(2.0), "TB/s", 4.0, pytest.approx(50.0))

    causal = CASES["extend-1x8192"]
    assert causal.work.flops == 4 * 128 * 32 * 8192 * 8193 // 2
    at_tenth = figure(causal, causal.work.flops / 70e6, LIMITS)
    assert dataclasses.astuple(at_tenth) == (pytest.approx(70.0), "TFLOP/s", 700.0, pytest.approx(10.0))

    latency = figure(CASES["decode-b1-1024"], 10.0, LIMITS)
    least_us = 2 * 1024 * 4 * 128 * 2 / 4e6
    assert dataclasses.astuple(latency) == (10.0, "us", pytest.approx(least_us), pytest.approx(10 * least_us))


def test_cached_positions_are_visible_to_every_new_token():
    pairs = sum(4096 + i for i in range(1, 257))
    assert CASES["extend-32x256-on-4096"].work.flops == 32 * 4 * 128 * 32 * pairs


@pytest.mark.parametrize(("flops", "expected"), [(1, Limit.READ), (10**15, Limit.MATMUL)])
def test_the_tighter_limit_is_the_one_that_takes_longer(flops, expected):
    assert limit_us(Work(read_bytes=10**9, flops=flops), Limit.TIGHTER, LIMITS)[1] is expected


def test_inputs_rotate_through_more_than_the_l2_cache():
    for case in CASES.values():
        num_bytes = case.num_sets(smoke=False) * (case.work.read_bytes + case.work.written_bytes)
        assert num_bytes >= 512e6 or case.num_sets(smoke=False) == 64
        assert run.num_calls(case, LIMITS, smoke=False) % case.num_sets(smoke=False) == 0
    assert 64 * CASES["decode-b1-1024"].work.read_bytes > 2 * 60e6


def test_the_worst_ratio_counts_beside_jax():
    rows = [
        Row(CASES[name], Measured(ours, False), figure(CASES[name], ours, LIMITS), jax_us=theirs)
        for name, ours, theirs in (("decode-64x2048", 200.0, 400.0), ("decode-8x16384", 200.0, 300.0))
    ]
    line = record.versus_jax_line(rows, ("decode-64x2048", "decode-8x16384"), LIMITS)
    assert line["value"] == 1.5
    least_us = CASES["decode-8x16384"].work.read_bytes / 4e6
    assert line["limit"] == pytest.approx(300 / least_us, rel=1e-3)
    assert line["percent_of_limit"] == pytest.approx(100 * 1.5 * least_us / 300, abs=0.1)
    assert record.versus_jax_line(rows[:1], ("decode-64x2048", "decode-8x16384"), LIMITS) is None


def test_a_ratio_is_that_of_two_times_of_one_run():
    rows = [
        Row(CASES[name], Measured(microseconds, False))
        for name, microseconds in (("decode-64x2048", 125.0), ("decode-64x2048-int8", 75.0))
    ]
    (line,) = record.ratio_lines(rows, LIMITS)
    least_us = CASES["decode-64x2048-int8"].work.read_bytes / 4e6
    assert least_us == pytest.approx(132 / 256 * CASES["decode-64x2048"].work.read_bytes / 4e6)
    assert (line["id"], line["value"], line["unit"]) == ("kv8-decode-64x2048", 0.6, "ratio")
    assert line["limit"] == pytest.approx(least_us / 125, rel=1e-3)
    assert line["percent_of_limit"] == pytest.approx(100 * least_us / 75, abs=0.1)
    assert record.ratio_lines(rows[1:], LIMITS) == []


def test_ratios_are_recorded_by_themselves(table, results):
    lines = newest_lines(results / target_device().file_name / "quantization.jsonl")
    assert lines.keys() == {"kv8-decode-64x2048", "kv8-extend-1x8192-fp8"}
    assert all(list(line) == LINE_KEYS for line in lines.values())


def test_more_than_the_limit_is_not_recorded(tmp_path):
    file = tmp_path / "kernels.jsonl"
    lines = [{"id": "rms-norm", "percent_of_limit": 101.0}, {"id": "fused-write", "percent_of_limit": 99.0}]
    with pytest.raises(ValueError, match=r"not recorded.*: rms-norm \(101.0%\); run again"):
        append(file, lines)
    assert list(newest_lines(file)) == ["fused-write"]


def test_a_smoke_test_does_not_touch_the_results():
    with pytest.raises(SystemExit):
        main(["--smoke", "--record"])


def test_an_unknown_op_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no op is called flash; there are .*paged_attention.decode"):
        selected(all_cases(), ["flash"], [])


def test_the_chart_has_a_picture(table, results, tmp_path):
    output_of("chart", "--results", str(results))
    picture = results / target_device().file_name / "kernels.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_target_far_beyond_the_limit_is_drawn_too(tmp_path):
    """A slow machine's limit may be a millionth of what is wanted on a GPU."""
    line = {
        "id": "sample-greedy-256x151936",
        "limit": 1e7,
        "value": 3e7,
        "percent_of_limit": 33.0,
        "unit": "us",
    }
    short = {**line, "percent_of_limit": 3.0}
    for each in (line, short):
        chart.draw({each["id"]: {**each, "versions": {"device": "cpu"}}}, tmp_path / "chart.png")
        assert (tmp_path / "chart.png").read_bytes()[:4] == b"\x89PNG"


def test_targets_lie_where_their_unit_says():
    line = {"limit": 700.0}
    assert chart.target_percent(line, CASES["extend-1x8192"].target) == pytest.approx(100 * 400 / 700)
    assert chart.target_percent(line, CASES["decode-64x2048"].target) == 85
    assert chart.target_percent({"limit": 0.6}, CASES["decode-b1-1024"].target) == pytest.approx(5.0)


@pytest.mark.parametrize(
    "name",
    [
        "decode-64x2048",
        "decode-8x16384",
        "decode-256x1024",
        "decode-1x131072",
        "decode-b1-1024",
        "decode-b1-4096",
        "extend-1x8192",
        "extend-16x2048",
        "extend-32x256-on-4096",
        "mla-64x4096",
        "rms-norm",
        "fused-write",
        "sample-greedy-256x151936",
        "sample-temperature-256x151936",
        "sample-qwen3-256x151936",
        "sample-qwen3-1x151936",
    ],
)
def test_every_case_that_has_a_target_exists(name):
    assert CASES[name].target is not None
