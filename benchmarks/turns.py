"""Two versions of jinfer on one machine in turns: whether the later one is as fast.

    python -m benchmarks.turns [--name refactor] [--turns 2] [--results FILE] EARLIER COMMAND...

EARLIER is a directory with the earlier version, as `git worktree add` makes it; the later one is this
repository. COMMAND is one of `jinfer bench`, as in `latency b1 b64-1024 --config DIR`: each turn runs it with
both, in processes of their own, the later one first in every second turn. Each row that both have is
recorded as `<name>-<row>`: how much time the later version takes, in times of the earlier one's. The median
of the turns counts, and a first turn, which may compile, counts as any other: what compiles is not timed.
"""

import argparse
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import record
from benchmarks.processes import ProcessError, json_lines
from benchmarks.record import REPOSITORY, Line
from jinfer.bench.arguments import positive
from jinfer.bench.json_lines import command_text

ALLOWED_RATIO = 1.015
TIME_UNITS = ("s", "ms")
VERSIONS = ("earlier", "later")
Rows = Mapping[str, list[Line]]
"""The lines of each row, one a turn."""


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where every row is as fast as allowed."""
    options = _options(arguments)
    trees = dict(zip(VERSIONS, (options.earlier.resolve(), REPOSITORY), strict=True))
    try:
        rows = _measured(trees, options.words, options.turns)
    except ProcessError as error:
        print(error, file=sys.stderr)
        return 1
    command = command_text(["python", "-m", "benchmarks.turns", *arguments], outputs=("--results",))
    lines = [
        {**compared(f"{options.name}-{row}", rows["earlier"][row], found), "command": command}
        for row, found in rows["later"].items()
        if row in rows["earlier"]
    ]
    if options.results is not None:
        record.append(options.results, lines)
    return int(not lines or any(line["value"] > ALLOWED_RATIO for line in lines))


def _measured(trees: Mapping[str, Path], words: Sequence[str], num_turns: int) -> dict[str, Rows]:
    rows: dict[str, defaultdict[str, list[Line]]] = {version: defaultdict(list) for version in VERSIONS}
    for turn in range(num_turns):
        for version in VERSIONS if turn % 2 else reversed(VERSIONS):
            for line in bench(trees[version], words):
                print(
                    f"turn {turn + 1}  {version:<8}{line['id']:<24}{line['value']} {line['unit']}", flush=True
                )
                rows[version][line["id"]].append(line)
    return dict(rows)


def bench(tree: Path, words: Sequence[str]) -> list[Line]:
    """What `jinfer bench` of a directory's version finds, under the ids of the records. Raises
    ProcessError."""
    path = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
    # The current directory, which has the later version, is not where modules are looked for.
    environment = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    command = ["env", *(f"{name}={value}" for name, value in environment.items()), sys.executable]
    return [
        record.kept_line(line)
        for line in json_lines([*command, "-m", "jinfer", "bench", *words, "--json", "-"])
    ]


def compared(name: str, earlier: Sequence[Line], later: Sequence[Line]) -> Line:
    """The line of a row: the ratio of times, and both versions' values."""
    values = {"earlier": [line["value"] for line in earlier], "later": [line["value"] for line in later]}
    ratio = statistics.median(values["later"]) / statistics.median(values["earlier"])
    if later[0]["unit"] not in TIME_UNITS:  # of tokens/s: more of them is less time
        ratio = 1 / ratio
    print(f"{name}: {ratio:.4f}, and {ALLOWED_RATIO} is allowed", flush=True)
    return {
        "id": name,
        "value": round(ratio, 4),
        "unit": "ratio",
        "limit": 1,
        "percent_of_limit": round(min(100, 100 / ratio), 1),
        **{key: later[0][key] for key in ("commit", "date", "versions")},
        "values": {**values, "unit": later[0]["unit"]},
    }


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.turns",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("earlier", type=Path, metavar="EARLIER")
    parser.add_argument("--name", default="refactor", help="begins the ids; default: refactor")
    parser.add_argument("--turns", type=positive(int), default=2, metavar="N", help="default: 2")
    parser.add_argument("--results", type=Path, metavar="FILE", help="appends the lines; default: none")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(arguments)
    if not options.words:
        parser.error("name a command of `jinfer bench`, as in: latency b1 --config DIR")
    if not (options.earlier / "jinfer").is_dir():
        parser.error(f"there is no jinfer in {options.earlier}; name the directory of an earlier version")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
