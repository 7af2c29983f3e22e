"""The benchmark of the HTTP front, with few streams: every chunk comes, and none before its step."""

from benchmarks.serve_front import measured


def test_every_chunk_of_every_stream_is_measured():
    figures = measured(num_streams=3, rate=100.0, num_tokens=7)

    assert figures["chunks"] == 21
    assert figures["user_us_per_chunk"] >= 0
    assert 0 <= figures["p50_lateness_ms"] <= figures["p99_lateness_ms"] <= figures["max_lateness_ms"]
