"""Figures as text for people, and what they should know before they believe them. Plain Python."""

from collections.abc import Iterator, Mapping
from typing import Any

from jinfer.bench.serve.figures import PERCENTS, TIMES

MAX_LATENESS_MS = MAX_LAG_MS = 50.0  # at the 99th percentile, of a client that keeps up
MAX_CPU_PERCENT = 80.0  # of a core, of a process whose times are the server's and not its own
MAX_MESSAGE_CHARACTERS = 160
LABELS = {
    "ttft": "TTFT",
    "itl": "ITL",
    "tpot": "TPOT",
    "e2e": "E2E",
    "lateness": "sent late",
    "lag": "client lag",
}


def report_text(title: str, figures: Mapping[str, Any], examples: Mapping[str, str]) -> str:
    """A paragraph of a load. `examples` has a message for each kind of failure."""
    return "\n".join(
        [title, *_counts(figures, examples), *_rates(figures), *_table(figures), *_goodput(figures)]
    )


def warnings(figures: Mapping[str, Any]) -> Iterator[str]:
    """Reasons to doubt the figures."""
    lateness_ms, lag_ms = (figures.get(f"p99_{name}_ms", 0.0) for name in ("lateness", "lag"))
    cpu_percent = figures["client_cpu_percent"]
    if figures["is_open_loop"] and lateness_ms > MAX_LATENESS_MS:
        yield (
            f"1 request of 100 was sent {lateness_ms:,.0f} ms late or more: this client did not keep up with "
            "the load, so that the server had less of it; raise --processes, or use a machine with more cores"
        )
    if lag_ms > MAX_LAG_MS or cpu_percent > MAX_CPU_PERCENT:
        yield (
            f"a process of this client used {cpu_percent:.0f}% of a core, and saw 1 event of 100 "
            f"{lag_ms:,.0f} ms late or more: the times are its own as well as the server's; raise "
            "--processes, or use a machine with more cores"
        )
    if figures["num_without_usage"]:
        yield (
            f"{figures['num_without_usage']} answers had no usage: their tokens are not counted, and they "
            "have no TPOT; the server ignores stream_options.include_usage"
        )
    if figures["num_without_tokens"]:
        yield f"{figures['num_without_tokens']} answers had no tokens: they have no TTFT"


def _counts(figures: Mapping[str, Any], examples: Mapping[str, str]) -> Iterator[str]:
    yield _line("requests", f"{figures['num_ok']:,} ok, {figures['num_failed']:,} failed")
    for failure, count in figures["failures"].items():
        message = " ".join(examples.get(failure, "").split())[:MAX_MESSAGE_CHARACTERS]
        yield _line("", f"{count:,} x {failure}" + (f": {message}" if message else ""))


def _rates(figures: Mapping[str, Any]) -> Iterator[str]:
    yield _line("", f"{figures['requests_per_s']:,.4g} requests/s in {figures['seconds']:,.1f} s")
    cached = f", {figures['num_cached_tokens']:,} cached" if figures["num_cached_tokens"] else ""
    yield _line(
        "tokens",
        f"{figures['num_input_tokens']:,} in{cached} ({figures['input_tokens_per_s']:,.0f}/s), "
        f"{figures['num_output_tokens']:,} out ({figures['output_tokens_per_s']:,.0f}/s)",
    )
    if figures["tokens_per_chunk"] and abs(figures["tokens_per_chunk"] - 1) > 0.05:
        yield _line("", f"{figures['tokens_per_chunk']:.2f} tokens a chunk: ITL is not a token's time")


def _table(figures: Mapping[str, Any]) -> Iterator[str]:
    columns = (*(f"p{percent}" for percent in PERCENTS), "mean")
    yield _line("ms", "".join(f"{column:>12}" for column in columns))
    for name in TIMES:
        values = [figures.get(f"{column}_{name}_ms") for column in columns]
        cells = "".join(f"{'-' if value is None else f'{value:,.2f}':>12}" for value in values)
        yield _line(LABELS[name], cells)


def _goodput(figures: Mapping[str, Any]) -> Iterator[str]:
    if "goodput_per_s" in figures:
        limits = ", ".join(
            f"{LABELS[name]} <= {limit:g} ms" for name, limit in figures["goodput_limits_ms"].items()
        )
        yield _line(
            "goodput",
            f"{figures['goodput_per_s']:,.4g} requests/s, {figures['goodput_percent']:.1f}% of all "
            f"({limits})",
        )


def _line(label: str, text: str) -> str:
    return f"  {label:<10} {text}".rstrip()
