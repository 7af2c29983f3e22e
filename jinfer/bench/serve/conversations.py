"""The workloads of `jinfer bench serve`, by name. Plain Python.

    random-INxOUT     IN random token ids, OUT tokens out, whatever they are     random-1024x128
    mixed             the same with 100 to 1,024 tokens in, and as many out
    trace             the same with the lengths of --trace, at its times / --speed
    prompts           a request for each line of --prompts
    conversations     a conversation for each line of --prompts: each turn sends the turns before and the
                      answers that they got, --think-time seconds after the last of these

A line of --prompts is a JSON object with `prompt` (a text or token ids), `messages` (of a chat), or `turns`
(texts that somebody says in turn; `prompts` takes the first). --rate and --concurrency count conversations;
what is no conversation has one turn.
"""

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinfer.bench.arrivals import trace_arrivals
from jinfer.bench.workloads import MIXED_LENGTHS, Lengths
from jinfer.errors import ConfigError, shown

FORMS = "random-INxOUT (random-1024x128), mixed, trace, prompts or conversations"
RANDOM_NAME = re.compile(r"random-([1-9]\d*)x([1-9]\d*)")

Content = str | tuple[int, ...] | tuple[Mapping[str, Any], ...]  # a text, token ids, or messages


@dataclass(frozen=True)
class Conversation:
    """`turns` are said one after another; each answer has at most `output_len` tokens."""

    turns: tuple[Content, ...]
    output_len: int
    ignore_eos: bool = False


@dataclass(frozen=True)
class WorkloadOptions:
    """Options of workloads, beside their names. See `jinfer bench serve --help`."""

    seed: int
    vocab_size: int
    output_len: int
    ignore_eos: bool
    prompts: str | None = None
    trace: str | None = None
    speed: float = 1.0
    duration_s: float | None = None


@dataclass(frozen=True)
class Conversations:
    """Conversations by number: the same number gives the same conversation, in any process.

    After `count` numbers it begins again; None where no two numbers give the same. `times_s` is None where
    the workload does not say when.
    """

    get: Callable[[int], Conversation]
    count: int | None = None
    times_s: tuple[float, ...] | None = None


def find_conversations(name: str, options: WorkloadOptions) -> Conversations:
    """The workload of a name. Raises ConfigError for a name or a file that is none."""
    random_name = RANDOM_NAME.fullmatch(name)
    if random_name:
        lengths = Lengths(*map(int, random_name.groups()))
        return Conversations(lambda index: _random(options, index, lengths))
    if name == "mixed":
        return Conversations(lambda index: _random(options, index, None))
    if name == "trace":
        return _trace(options)
    if name in ("prompts", "conversations"):
        return _from_file(options, is_whole=name == "conversations")
    raise ConfigError(f"unknown serve workload {name!r}; there are {FORMS}")


def _random(options: WorkloadOptions, index: int, lengths: Lengths | None) -> Conversation:
    rng = random.Random(f"{options.seed} {index}")
    lengths = lengths or Lengths(rng.randint(*MIXED_LENGTHS), rng.randint(*MIXED_LENGTHS))
    token_ids = tuple(rng.choices(range(options.vocab_size), k=lengths.prompt))
    return Conversation((token_ids,), lengths.output, ignore_eos=True)


def _trace(options: WorkloadOptions) -> Conversations:
    if options.trace is None:
        raise ConfigError("the workload trace needs --trace FILE.csv (AzureLLMInferenceTrace_conv.csv)")
    duration_s = float("inf") if options.duration_s is None else options.duration_s
    arrivals = trace_arrivals(Path(options.trace), duration_s=duration_s, speed=options.speed)
    if not arrivals:
        raise ConfigError(
            f"--trace {options.trace} has no request in its first {duration_s} s; raise --duration"
        )
    return Conversations(
        lambda index: _random(options, index, arrivals[index % len(arrivals)].lengths),
        count=len(arrivals),
        times_s=tuple(arrival.time_s for arrival in arrivals),
    )


def _from_file(options: WorkloadOptions, *, is_whole: bool) -> Conversations:
    if options.prompts is None:
        raise ConfigError("the workloads prompts and conversations need --prompts FILE.jsonl")
    file = Path(options.prompts)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {file} cannot be read as UTF-8: {error}; give another file") from error
    all_turns = [_turns(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not all_turns:
        raise ConfigError(f"--prompts {file} has no line; give a file with a JSON object a line")

    def get(index: int) -> Conversation:
        turns = all_turns[index % len(all_turns)]
        return Conversation(turns if is_whole else turns[:1], options.output_len, options.ignore_eos)

    return Conversations(get, count=len(all_turns))


def _turns(file: Path, number: int, line: str) -> tuple[Content, ...]:
    try:
        found = json.loads(line)
        turns = tuple(map(_content, _listed(found)))
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--prompts {file}, line {number}: a line is a JSON object with prompt, messages or turns, and "
            f"this one is {shown(line)}"
        ) from error
    if not turns or not all(turns):
        raise ConfigError(f"--prompts {file}, line {number} has nothing to say: {shown(line)}; remove it")
    return turns


def _listed(line: Mapping[str, Any]) -> list[Any]:
    """The turns of a line, which may have one. Raises KeyError where it has none."""
    if "turns" not in line:
        return [line["prompt"] if "prompt" in line else line["messages"]]
    if not isinstance(line["turns"], list):
        raise TypeError(line["turns"])
    return line["turns"]


def _content(value: Any) -> Content:
    """Raises TypeError for what is neither a text nor a list of token ids or of messages."""
    if isinstance(value, str):
        return value
    for kind in (int, dict):
        if isinstance(value, list) and all(type(each) is kind for each in value):
            return tuple(value)
    raise TypeError(value)
