"""Draws results/<device>/kernels.png from the newest line of each case that has a target.

python -m benchmarks.kernels chart [--results DIRECTORY] [--device nvidia-h200]
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.kernels.case import Target
from benchmarks.kernels.cases import all_cases
from benchmarks.kernels.record import FILE_NAME, RESULTS, VERSUS_JAX
from benchmarks.record import newest_lines
from pallas_kernels.core.device import target_device

Line = dict[str, Any]
LAST_LABEL = 88  # of the axis: a label begins there at the latest, also where a target lies beyond the limit
OURS, THEIRS, INK = "#2a6fbb", "#b0b7c0", "#1f2933"


def main(arguments: list[str]) -> int:
    """Writes the picture and prints its path."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.kernels chart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIRECTORY")
    parser.add_argument("--device", help="the name of a directory of results; this machine's without it")
    options = parser.parse_args(arguments)
    directory = options.results / (options.device or target_device().file_name)
    file = directory / FILE_NAME
    if not file.is_file():
        raise SystemExit(f"there is no {file}: run `python -m benchmarks.kernels --record` on that device")
    picture = directory / "kernels.png"
    draw(newest_lines(file), picture)
    print(picture)
    return 0


def draw(lines: dict[str, Line], picture: Path) -> None:
    """Draws a bar with the percentage of the limit for each case, and its target as a tick."""
    import matplotlib  # heavy, and an extra

    matplotlib.use("Agg")
    from matplotlib import pyplot

    targets = {case.id: case.target for case in all_cases() if case.target is not None}
    shown: list[tuple[Line, Target | None]] = [
        (lines[name], target) for name, target in targets.items() if name in lines
    ]
    shown += [(lines[VERSUS_JAX], None)] if VERSUS_JAX in lines else []
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.36 * len(shown)), layout="constrained")
    for y, (line, target) in enumerate(shown):
        _bar(axes, y, line, target)
    axes.set_yticks(range(len(shown)), [line["id"] for line, _ in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent of the limit that the same run measured; | is the target")
    device = shown[0][0]["versions"]["device"] if shown else ""
    axes.set_title(f"Kernels on one {device}", loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(picture, dpi=150)
    pyplot.close(figure)


def _bar(axes: Any, y: int, line: Line, target: Target | None) -> None:
    """Writes the number inside a long bar, and to the right of a short bar and its target."""
    is_versus_jax = line["id"] == VERSUS_JAX
    # jax's own share of the limit.
    percent = 100 / line["limit"] if is_versus_jax else line["percent_of_limit"]
    axes.barh(y, percent, height=0.72, color=THEIRS if is_versus_jax else OURS)
    wanted = 0.0 if target is None else target_percent(line, target)
    if target is not None:
        axes.plot([wanted, wanted], [y - 0.46, y + 0.46], color=INK, linewidth=2.5, solid_capstyle="butt")
    if is_versus_jax:
        label = f"jax's own kernel; ours is {line['value']:.2f} times as fast"
    else:
        label = f"{line['value']:.{2 if line['value'] < 10 else 1}f} {line['unit']}"
    is_inside = percent > (60 if is_versus_jax else 30)
    color = "white" if is_inside and not is_versus_jax else INK
    place = 1 if is_inside else min(max(percent, wanted) + 1.2, LAST_LABEL)
    text = axes.text(place, y, label, va="center", color=color, fontsize=9)
    text.set_in_layout(False)


def target_percent(line: Line, target: Target) -> float:
    """The share of the limit that the target asks for, which is its position on the axis."""
    if target.unit == "%":
        return target.amount
    return 100 * (line["limit"] / target.amount if target.unit == "us" else target.amount / line["limit"])
