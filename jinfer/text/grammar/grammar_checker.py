"""The checking process (check_process.py), from this side."""

from collections.abc import Mapping

from jinfer.text.grammar.library import llguidance
from jinfer.text.grammar.limits import GrammarLimits
from jinfer.text.limited_process.limits import Excess, ProcessLimits, excess_of
from jinfer.text.limited_process.process import LimitedProcess, ProcessEndedError

MODULE = "jinfer.text.grammar.check_process"


class GrammarChecker:
    """Compiles grammars in a process of its own, to find out whether they can be compiled here. One thread
    uses it at a time. The process starts with the first grammar, and anew after one that ended it."""

    def __init__(self, added_tokens: Mapping[str, int], *, vocab_size: int, limits: GrammarLimits) -> None:
        """`added_tokens` are the tokenizer's, and `vocab_size` is the number of its ids."""
        self._limits = limits
        self._setup = {
            "tokens": {token_id: text for text, token_id in added_tokens.items()},
            "vocab_size": vocab_size,
            "limits": dict(limits.parser),
        }
        self._process: LimitedProcess | None = None

    def error(self, grammar: str) -> str | None:
        """The reason why a grammar cannot be compiled, in llguidance's words or, if it ended the process, in
        our own. None if it can."""
        try:
            return self._started().ask(grammar) or None
        except ProcessEndedError as ended:
            return self._reason(ended.status)

    def start(self) -> None:
        """Start the process, if it does not run."""
        self._started().start()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()

    def _started(self) -> LimitedProcess:
        if self._process is None:
            limits = self._limits
            bounds = ProcessLimits(limits.compile_cpu_s, limits.compile_bytes, limits.stack_bytes)
            self._process = LimitedProcess(MODULE, self._setup, bounds, needs=llguidance())
        return self._process

    def _reason(self, status: int) -> str:
        limits = self._limits
        return {
            Excess.TIME: f"it takes more than {limits.compile_cpu_s:g} s of CPU to compile; make it simpler",
            Excess.DEPTH: "its rules or references nest too deeply; make it flatter",
            Excess.MEMORY: f"it takes more than {limits.compile_bytes >> 20} MiB to compile; make it smaller",
            Excess.OTHER: f"the process that compiles it ended with the status {status}; make it simpler",
        }[excess_of(status)]
