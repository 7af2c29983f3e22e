"""The process in which grammars are compiled first, so that one which brings llguidance down, or is never
done, ends no engine.

It reads lines of JSON. The first has {"tokens": texts by id, "vocab_size", "limits", "limit_s", "max_bytes",
"stack_bytes"}. The others are a grammar each, and are answered by a line with llguidance's error, or "".
A grammar that takes more than `limit_s` seconds of CPU ends the process by SIGPROF, more than `max_bytes` of
memory by SIGABRT, and one that nests too deeply by SIGSEGV. The end of the input ends it too.

The file is run by its path and imports nothing of jinfer, so that starting it takes a tenth of a second.
"""

import json
import resource
import signal
import sys
import threading

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

WALL_LIMITS = 30  # of the CPU's: a process that gets so little of the CPU is stuck


class VocabularyOutline:
    """A vocabulary with the real ids, the real texts of added tokens, and single bytes else."""

    bos_token_id = None

    def __init__(self, tokens: dict[str, str], vocab_size: int) -> None:
        self.special_token_ids = [int(token_id) for token_id in tokens]
        self.eos_token_id = self.special_token_ids[0] if tokens else vocab_size - 1
        ordinary = iter(bytes([byte]) for byte in range(256))
        self.tokens = [
            tokens[str(token_id)].encode() if str(token_id) in tokens else next(ordinary, b"")
            for token_id in range(vocab_size)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        return []  # what is compiled is not tokenized


def main() -> None:
    """Answers lines until there are no more."""
    setup = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (setup["max_bytes"], setup["max_bytes"]))
    threading.stack_size(setup["stack_bytes"])
    outline = TokenizerWrapper(VocabularyOutline(setup["tokens"], setup["vocab_size"]))
    tokenizer = LLTokenizer(outline, n_vocab=setup["vocab_size"])
    limits = LLParserLimits(**setup["limits"])
    for line in sys.stdin:
        _set_timers(setup["limit_s"])
        answers: list[str] = []
        check = threading.Thread(
            target=lambda line=line, answers=answers: answers.append(_error(tokenizer, limits, line))
        )
        check.start()
        check.join()
        _set_timers(0)
        print(json.dumps(answers[0]), flush=True)


def _set_timers(limit_s: float) -> None:
    """The default action of their signals ends the process, whatever it is doing. 0 stops them."""
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    signal.setitimer(signal.ITIMER_REAL, limit_s * WALL_LIMITS)


def _error(tokenizer: LLTokenizer, limits: LLParserLimits, line: str) -> str:
    try:
        return LLMatcher(tokenizer, json.loads(line), log_level=0, limits=limits).get_error()
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    main()
