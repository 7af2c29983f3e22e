"""The table and the picture of the README: vLLM and jinfer on one GPU, beside its limits.

    python -m benchmarks.beside_vllm [--device nvidia-h200]

Reads results/<device>/beside_vllm.json, which names the command that measures, prints it as Markdown, and
draws beside_vllm.png next to it: how near each engine comes to what the bytes and operations of a workload
take on that GPU.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

FILE_NAME, PICTURE_NAME = "beside_vllm.json", "beside_vllm.png"
OURS, THEIRS, INK = "#2a6fbb", "#b0b7c0", "#1f2933"
BAR_HEIGHT = 0.38

Row = Mapping[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Prints the table and writes the picture."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.beside_vllm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--device", default="nvidia-h200", help="the name of a directory of results")
    options = parser.parse_args(arguments)
    directory = options.results / options.device
    rows = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))["rows"]
    print("\n".join(table(rows)))
    draw(rows, directory / PICTURE_NAME)
    return 0


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yields a line of Markdown for each row; the last column says how many times as fast jinfer is."""
    yield "| workload | vLLM | jinfer | limit | jinfer is |"
    yield "|---|---|---|---|---|"
    for row in rows:
        amounts = [amount(row[name], row["unit"]) for name in ("vllm", "jinfer", "limit")]
        cells = (row["workload"], amounts[0], f"**{amounts[1]}**", amounts[2], f"{speedup(row):.2f}x")
        yield f"| {' | '.join(cells)} |"


def amount(value: float, unit: str) -> str:
    """Formats a rate with four digits and a time with three."""
    return f"{value:,.0f} {unit}" if unit.endswith("/s") else f"{value:.3g} {unit}"


def speedup(row: Row) -> float:
    """The speed of jinfer relative to vLLM's."""
    return share_of_limit(row, "jinfer") / share_of_limit(row, "vllm")


def share_of_limit(row: Row, engine: str) -> float:
    """The share of the limit that an engine reaches."""
    return row[engine] / row["limit"] if row["unit"].endswith("/s") else row["limit"] / row[engine]


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Draws two bars per workload, in percent of the limit."""
    import matplotlib  # heavy, and an extra

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.55 * len(rows)), layout="constrained")
    for y, row in enumerate(rows):
        for engine, color, offset in (("jinfer", OURS, -BAR_HEIGHT / 2), ("vllm", THEIRS, BAR_HEIGHT / 2)):
            percent = 100 * share_of_limit(row, engine)
            axes.barh(y + offset, percent, height=BAR_HEIGHT, color=color)
            name = "vLLM" if engine == "vllm" else engine
            text = f"{name} {amount(row[engine], row['unit'])}"
            ink = "white" if engine == "jinfer" else INK
            axes.text(1, y + offset, text, va="center", color=ink, fontsize=9)
    axes.set_yticks(range(len(rows)), [row["workload"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent of the limit that was measured on the same GPU")
    axes.set_title("Qwen3-8B in bfloat16 on one NVIDIA H200", loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(picture, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
