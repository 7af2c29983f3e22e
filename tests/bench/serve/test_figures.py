"""The arithmetic of every figure, and what is said about it."""

import dataclasses
import json

import pytest

from jinfer.bench.serve.figures import example_failures, load_figures, meets
from jinfer.bench.serve.records import RequestRecord
from jinfer.bench.serve.report import report_text, warnings

CLIENT = {"client_cpu_percent": 10.0, "is_open_loop": True}


def record(
    number: int = 0, *, sent_s: float = 0.0, ttft_s: float = 0.1, gap_s: float = 0.02, out: int = 5, **changes
):
    """An answer of `out` chunks of a token."""
    times = tuple(sent_s + ttft_s + place * gap_s for place in range(out))
    whole = RequestRecord(number, 0, sent_s, sent_s, times, times[-1], 10, 4, out, finish_reason="length")
    return dataclasses.replace(whole, **changes)


def test_times_of_a_request():
    one = record(sent_s=3.0, planned_s=2.5)
    assert one.lateness_s == 0.5
    assert one.ttft_s == pytest.approx(0.1)
    assert one.itl_s == pytest.approx([0.02] * 4)
    assert one.e2e_s == pytest.approx(0.18)
    assert one.tpot_s == pytest.approx(0.02)
    two_a_chunk = record(num_output_tokens=9)
    assert two_a_chunk.tpot_s == pytest.approx(0.01)
    assert record(out=1).tpot_s is None
    assert record(num_output_tokens=None).tpot_s is None
    assert record(chunk_times_s=()).ttft_s is None


def test_percentiles_and_rates():
    records = [record(n, sent_s=float(n), ttft_s=(n + 1) / 1000) for n in range(100)]
    figures = load_figures(records, {})
    assert [figures[f"p{p}_ttft_ms"] for p in (50, 90, 99)] == [50, 90, 99]
    assert figures["mean_ttft_ms"] == pytest.approx(50.5)
    assert figures["p99_itl_ms"] == pytest.approx(20)
    assert figures["p50_e2e_ms"] == pytest.approx(50 + 80)
    seconds = 99 + 0.1 + 0.08
    assert figures["seconds"] == pytest.approx(seconds)
    assert figures["requests_per_s"] == pytest.approx(100 / seconds, abs=1e-3)
    assert figures["input_tokens_per_s"] == pytest.approx(1000 / seconds, abs=1e-3)
    assert figures["output_tokens_per_s"] == pytest.approx(500 / seconds, abs=1e-3)
    assert (figures["num_cached_tokens"], figures["tokens_per_chunk"]) == (400, 1)
    assert not [name for name in figures if name.startswith("goodput")]


def test_itl_is_over_all_gaps_and_not_over_requests():
    figures = load_figures([record(out=10, gap_s=0.01), record(out=2, gap_s=0.5)], {})
    assert figures["p50_itl_ms"] == pytest.approx(10)
    assert figures["p90_itl_ms"] == pytest.approx(10)
    assert figures["p99_itl_ms"] == pytest.approx(500)


def test_failures_are_counted_by_kind_and_leave_the_times_alone():
    failed = dataclasses.replace(record(ttft_s=9.0), failure="cut", message="first")
    records = [record(), failed, dataclasses.replace(failed, message="second"), record(1, failure="http 503")]
    figures = load_figures(records, {"ttft": 1000.0})
    assert (figures["num_requests"], figures["num_ok"], figures["num_failed"]) == (4, 1, 3)
    assert figures["failures"] == {"cut": 2, "http 503": 1}
    assert figures["p99_ttft_ms"] == pytest.approx(100)
    assert figures["num_output_tokens"] == 5
    assert (figures["num_good"], figures["goodput_percent"]) == (1, 25)
    assert example_failures(records) == {"cut": "first", "http 503": ""}


@pytest.mark.parametrize(
    ("limits_ms", "is_met"),
    [
        ({"ttft": 101}, True),
        ({"ttft": 99}, False),
        ({"tpot": 21}, True),
        ({"tpot": 19}, False),
        ({"e2e": 181}, True),
        ({"e2e": 179}, False),
        ({"itl": 21}, True),
        ({"itl": 19}, False),
        ({"ttft": 101, "tpot": 19}, False),
    ],
)
def test_a_good_request_meets_every_limit(limits_ms, is_met):
    assert meets(record(), limits_ms) is is_met
    assert not meets(record(failure="cut"), limits_ms)


def test_a_limit_of_what_is_not_known_is_not_met():
    assert meets(record(out=1), {"tpot": 1.0}), "one token has no time between"
    assert not meets(record(num_output_tokens=None), {"tpot": 1000.0})
    assert not meets(record(chunk_times_s=()), {"ttft": 1000.0})


def test_the_longest_gap_counts_for_a_limit_of_itl():
    times = (0.1, 0.12, 0.4, 0.42, 0.44)
    assert not meets(record(chunk_times_s=times), {"itl": 200})
    assert meets(record(chunk_times_s=times), {"itl": 281})


def test_nothing_at_all_has_figures_too():
    figures = load_figures([], {"ttft": 1.0})
    assert (figures["num_requests"], figures["requests_per_s"], figures["goodput_percent"]) == (0, 0, 0)
    assert "TTFT" in report_text("title", figures, {})


def test_the_report_says_what_failed_and_why():
    records = [record(), record(1, failure="http 503", message="full  (Retry-After: 7)")]
    text = report_text(
        "load", load_figures(records, {"ttft": 200.0, "tpot": 50.0}), example_failures(records)
    )
    assert "1 ok, 1 failed" in text
    assert "1 x http 503: full (Retry-After: 7)" in text
    assert "50.0% of all (TTFT <= 200 ms, TPOT <= 50 ms)" in text
    assert "10 in, 4 cached" in text
    assert "a chunk" not in text
    assert "2.00 tokens a chunk" in report_text("", load_figures([record(num_output_tokens=10)], {}), {})


def test_doubts_are_said():
    def said(records, **client):
        return " ".join(warnings({**load_figures(records, {}), **CLIENT, **client}))

    late = [record(n, sent_s=n + 0.2, planned_s=float(n)) for n in range(10)]
    assert "sent 200 ms late or more" in said(late)
    assert said(late, is_open_loop=False) == ""
    assert said([record()]) == ""
    assert "used 95% of a core" in said([record()], client_cpu_percent=95.0)
    assert "saw 1 event of 100 70 ms late or more" in said([record()], p99_lag_ms=70.0)
    assert "1 answers had no usage" in said([record(num_output_tokens=None)])
    assert "1 answers had no tokens" in said([record(chunk_times_s=())])


def test_a_record_goes_through_json():
    assert RequestRecord.of_line(json.loads(json.dumps(record().line()))) == record()
