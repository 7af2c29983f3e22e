"""A picture of loads: how times are distributed, and how a load went over time."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.bench.json_lines import file_errors
from jinfer.bench.serve.figures import seconds_of
from jinfer.bench.serve.records import RequestRecord
from jinfer.errors import ConfigError

NUM_BINS = 60
DPI = 120
MAX_TITLES_IN_A_ROW = 4


def check_plot() -> None:
    """Raises ConfigError where a picture cannot be drawn, before anything is measured."""
    try:
        import matplotlib  # noqa: F401  # heavy, and an extra
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'jinfer[bench]'") from error


def draw(loads: Mapping[str, Sequence[RequestRecord]], path: str) -> None:
    """Writes a picture of the loads, by their titles. Raises ConfigError for a file that cannot be
    written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3).flatten()
    for number, (title, records) in enumerate(loads.items()):
        _draw_load(panels, records, f"C{number}", title)
    _name_panels(panels)
    handles, titles = panels[0].get_legend_handles_labels()
    figure.legend(handles, titles, loc="outside lower left", ncols=MAX_TITLES_IN_A_ROW, frameon=False)
    with file_errors(f"--plot {path}"):
        figure.savefig(path, dpi=DPI)


def _draw_load(panels: Sequence[Any], records: Sequence[RequestRecord], color: str, title: str) -> None:
    ok = [record for record in records if record.is_ok]
    _distribution(panels[0], [record.ttft_s for record in ok], color, title)
    _distribution(panels[1], [gap for record in ok for gap in record.itl_s], color, title)
    _distribution(panels[2], [record.tpot_s for record in ok], color, title)
    _first_tokens(panels[3], records, color)
    _in_flight(panels[4], records, color)
    _chunk_rate(panels[5], records, color)


def _distribution(axes: Any, times_s: Sequence[float | None], color: str, title: str) -> None:
    """The percent of times that are at most so long; all of them, so that the tail is seen."""
    times_ms = sorted(time_s * 1e3 for time_s in times_s if time_s is not None)
    percents = [100 * (place + 1) / len(times_ms) for place in range(len(times_ms))]
    axes.step(times_ms, percents, where="post", color=color, label=title)


def _first_tokens(axes: Any, records: Sequence[RequestRecord], color: str) -> None:
    points = [
        (record.sent_s, record.ttft_s) for record in records if record.is_ok and record.ttft_s is not None
    ]
    axes.scatter([x for x, _ in points], [y * 1e3 for _, y in points], s=6, color=color)
    failed = [record.sent_s for record in records if record.failure and record.sent_s is not None]
    axes.scatter(failed, [0] * len(failed), marker="x", s=16, color=color, clip_on=False)


def _in_flight(axes: Any, records: Sequence[RequestRecord], color: str) -> None:
    sent = [(record.sent_s, 1) for record in records if record.sent_s is not None]
    ended = [(record.ended_s, -1) for record in records if record.ended_s is not None]
    times, counts, count = [0.0], [0], 0
    for time_s, change in sorted(sent + ended):
        count += change
        times.append(time_s)
        counts.append(count)
    axes.step(times, counts, where="post", color=color)


def _chunk_rate(axes: Any, records: Sequence[RequestRecord], color: str) -> None:
    end_s = max((record.ended_s or 0.0 for record in records), default=0.0)
    if seconds_of(records) <= 0:
        return
    width_s = end_s / NUM_BINS
    counts = [0] * (NUM_BINS + 1)
    for record in records:
        for time_s in record.chunk_times_s:
            counts[min(NUM_BINS - 1, int(time_s / width_s))] += 1
    axes.step(
        [place * width_s for place in range(NUM_BINS + 1)],
        [c / width_s for c in counts],
        where="post",
        color=color,
    )


def _name_panels(panels: Sequence[Any]) -> None:
    names = (
        ("Time to the first token, ms", "percent of requests"),
        ("Time between chunks, ms", "percent of gaps"),
        ("Time per output token, ms", "percent of requests"),
        ("Time to the first token, ms (x: failed)", "sent after s"),
        ("Requests in flight", "s"),
        ("Chunks per second", "s"),
    )
    for number, (axes, (title, label)) in enumerate(zip(panels, names, strict=True)):
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        (axes.set_ylabel if number < 3 else axes.set_xlabel)(label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
