"""The output of a command on stdout, and its end."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinfer.cli.exit_status import EXIT_ERROR, EXIT_OK
from jinfer.requests.outputs import RequestOutput
from jinfer.requests.request import FinishReason

LINE_ENDS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}  # besides those that JSON escapes itself


class InOrder:
    """Prints several texts one after another although they grow at the same time."""

    def __init__(self, beginnings: Sequence[str]) -> None:
        """One for each text, often empty."""
        self._waiting = list(beginnings)
        self._finished = [False] * len(beginnings)
        self._current = 0
        self._flush()

    def add(self, index: int, text: str, finish_reason: FinishReason | None) -> None:
        """Adds text to the one at `index`."""
        self._waiting[index] += text
        self._finished[index] = finish_reason is not None
        self._flush()

    def _flush(self) -> None:
        while self._current < len(self._waiting):
            sys.stdout.write(self._waiting[self._current])
            self._waiting[self._current] = ""
            if not self._finished[self._current]:
                break
            self._current += 1
            if self._current < len(self._waiting):
                sys.stdout.write("\n")


def check_stdout() -> None:
    """Raises WriteError, before the work begins, where its result could not be written."""
    sys.stdout.write("")


def json_line(output: RequestOutput, encoding: str) -> str:
    """An object on one line. Characters that the encoding lacks are escaped, and numbers that JSON lacks are
    null."""
    fields = _finite(_fields(output))
    line = json.dumps(fields, ensure_ascii=False, allow_nan=False).translate(LINE_ENDS)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(fields, allow_nan=False)
    return line


def _fields(output: RequestOutput) -> dict[str, Any]:
    """The first completion at the top, and all of them under `outputs` where there are several."""
    metrics = dataclasses.asdict(output.metrics) | {"output_tokens_per_s": output.metrics.output_tokens_per_s}
    completions = [dataclasses.asdict(completion) for completion in output.outputs]
    common: dict[str, Any] = {
        "request_id": output.request_id,
        "prompt": output.prompt,
        "prompt_token_ids": output.prompt_token_ids,
    }
    if output.prompt_logprobs is not None:
        common["prompt_logprobs"] = output.prompt_logprobs
    several = {"outputs": completions} if len(completions) > 1 else {}
    return {**common, **completions[0], **several, "timings": metrics}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report_errors(errors: Iterable[str | None]) -> int:
    """A line on stderr for each, and the exit status."""
    found = [error for error in errors if error]
    for error in found:
        print(f"jinfer: error: {error}", file=sys.stderr)
    return EXIT_ERROR if found else EXIT_OK


def speed(num_tokens: int, elapsed_s: float, *, first_token_s: float) -> str:
    """The figures of an output in words; both times are counted from its request."""
    return (
        f"{num_tokens} tokens in {elapsed_s:.2f} s: {num_tokens / elapsed_s:.1f} tokens/s, "
        f"first token after {first_token_s * 1e3:.0f} ms"
    )
