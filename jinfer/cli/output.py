"""What goes to stdout, and how a command ends."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from typing import Any

from jinfer.outputs import RequestOutput
from jinfer.request import FinishReason

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 1, 130


class InOrder:
    """Prints several texts one after another although they grow at the same time."""

    def __init__(self, count: int, beginnings: list[str] | None) -> None:
        self._waiting = list(beginnings or [""] * count)
        self._finished = [False] * count
        self._current = 0
        self._flush()

    def add(self, place: int, text: str, finish_reason: FinishReason | None) -> None:
        """More of the text at `place`."""
        self._waiting[place] += text
        self._finished[place] = finish_reason is not None
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
        sys.stdout.flush()


def json_line(output: RequestOutput) -> str:
    """An object for each prompt."""
    return json.dumps(_fields(output), ensure_ascii=False)


def _fields(output: RequestOutput) -> dict[str, Any]:
    """The first completion at the top, and all of them under `outputs` where there are several."""
    metrics = dataclasses.asdict(output.metrics) | {"output_tokens_per_s": output.metrics.output_tokens_per_s}
    completions = [dataclasses.asdict(completion) for completion in output.outputs]
    common = {"request_id": output.request_id, "prompt": output.prompt, "prompt_token_ids": output.prompt_token_ids}
    several = {"outputs": completions} if len(completions) > 1 else {}
    return {**common, **completions[0], **several, "timings": metrics}


def report_errors(errors: Iterable[str | None]) -> int:
    """A line on stderr for each, and the exit status."""
    found = [error for error in errors if error]
    for error in found:
        print(f"jinfer: error: {error}", file=sys.stderr)
    return EXIT_ERROR if found else EXIT_OK
