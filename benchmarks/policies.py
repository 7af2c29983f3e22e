"""What each scheduling policy does to TTFT and TPOT under load: requests that arrive at random, and a trace.

    python -m benchmarks.policies CONFIG_DIR [--rates 2,4,8,16] [--trace FILE.csv] [--duration 60] [--record]

Each policy is one engine, in a process of its own, which sees the same arrivals. Prints the 50th and 99th
percentiles over requests, and with --record keeps them (`policy-<model>-<policy>-<load>-p99-ttft` and so on,
and `<model>-azure-p99-tpot` of `jinfer bench`) and draws policies.png beside them. Limits: a token cannot
come sooner than the weights are read.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import ProcessError, append, jinfer_bench, result_directory
from benchmarks.record import RESULTS, Line
from jinfer.bench.results import rounded

POLICIES = ("mixed", "prefill_first", "decode_first")
COLORS = {"mixed": "#2a6fbb", "prefill_first": "#c2571a", "decode_first": "#4d8a3a"}
FIGURES = ("p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "p99_tpot_ms")


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where every policy ran."""
    options = _options(arguments)
    lines: dict[str, list[Line]] = {}
    print(f"{'policy':<16}{'load':<14}" + "".join(f"{name:>14}" for name in FIGURES) + f"{'tokens/s':>12}")
    for policy in options.policies:
        found = lines[policy] = []
        try:
            for line in jinfer_bench(*_words(policy, options)):
                found.append(line)
                print(row_text(policy, line), flush=True)
                if options.record:
                    append(options.results, [line, *kept_lines(policy, line)])
        except (ProcessError, ValueError) as error:
            print(f"{policy:<16}failed: {error}", flush=True)
    ran = {policy: found for policy, found in lines.items() if found}
    if options.record and ran:
        picture = result_directory(options.results, next(iter(ran.values()))) / "policies.png"
        draw(ran, picture)
        print(picture)
    return int(any(len(found) < options.num_loads for found in lines.values()))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.policies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG_DIR")
    parser.add_argument(
        "--rates", default="2,4,8,16", help="requests a second, of 100 to 1,024 tokens in and out"
    )
    parser.add_argument("--trace", help="the CSV that is replayed as well, at twice its rate")
    parser.add_argument("--speed", default="2")
    parser.add_argument("--duration", default="60", metavar="S", help="seconds of arrivals, or of the trace")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of every engine")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    options.policies = options.policies.split(",")
    unknown = set(options.policies) - set(POLICIES)
    if unknown:
        parser.error(f"no policy is called {', '.join(sorted(unknown))}; there are {', '.join(POLICIES)}")
    options.loads = [f"poisson-{rate}" for rate in options.rates.split(",") if rate]
    options.loads += ["azure"] if options.trace else []
    options.num_loads = len(options.loads)
    return options


def _words(policy: str, options: argparse.Namespace) -> list[str]:
    trace = ["--trace", options.trace, "--speed", options.speed] if options.trace else []
    words = ["throughput", *options.loads, "--config", options.config, "--duration", options.duration, *trace]
    return words + [
        word for text in [*options.set, f"scheduling_policy={policy}"] for word in ("--set", text)
    ]


def load_of(line: Line) -> str:
    """The name of a load: poisson-4, or azure."""
    found = re.search(r"-(azure|poisson-[\d.]+)-p99-tpot", line["id"])
    assert found, line["id"]
    return found[1]


def row_text(policy: str, line: Line) -> str:
    """A line of the table."""
    details = line["details"]
    figures = "".join(f"{details[name]:>14,.1f}" for name in FIGURES)
    return f"{policy:<16}{load_of(line):<14}{figures}{details['output_tokens_per_s']:>12,.0f}"


def kept_lines(policy: str, line: Line) -> Iterator[Line]:
    """Yields a record for each percentile. The limit of all of them is the step that reads the weights, as in
    the line itself."""
    load = load_of(line)
    model = line["id"].split(f"-{load}-")[0]
    shared = {name: line[name] for name in ("commit", "date", "versions", "command")}
    for figure in FIGURES:
        percent, what, _ = figure.split("_")
        value = line["details"][figure]
        yield {
            "id": f"policy-{model}-{policy.replace('_', '-')}-{load}-{percent}-{what}",
            "value": rounded(value),
            "unit": "ms",
            "limit": line["limit"],
            "percent_of_limit": round(100 * line["limit"] / value, 1),
            **shared,
        }


def draw(lines: dict[str, list[Line]], picture: Path) -> None:
    """Draws TTFT and TPOT over the loads: the 50th percentile as a solid line, the 99th dashed."""
    import matplotlib  # heavy, and an extra

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, what in zip(panels, ("ttft", "tpot"), strict=True):
        for policy, found in lines.items():
            _curves(axes, policy, found, what)
        axes.set_yscale("log")
        axes.set_title(f"{what.upper()}, ms", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    device = next(iter(lines.values()))[0]["versions"]["device"]
    figure.suptitle(
        f"Policies under load on one {device}: median, and dashed the 99th percentile", x=0.01, ha="left"
    )
    figure.savefig(picture, dpi=150)
    pyplot.close(figure)


def _curves(axes: Any, policy: str, found: list[Line], what: str) -> None:
    loads = [
        load_of(line).removeprefix("poisson-") + ("" if load_of(line) == "azure" else "/s") for line in found
    ]
    for percent, style in ((50, "-"), (99, "--")):
        values = [line["details"][f"p{percent}_{what}_ms"] for line in found]
        label = policy if percent == 50 else None
        axes.plot(loads, values, style, marker="o", markersize=3, color=COLORS[policy], label=label)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
