"""The bounds of what a grammar may cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from jinfer.text.grammar.mask_filling import NUM_THREADS


@dataclass(frozen=True)
class GrammarLimits:
    """The bounds of compiling a grammar, and of the masks of its tokens. docs/decisions/0033 has the figures
    by which they were chosen."""

    compile_cpu_s: float = 1.0
    compile_bytes: int = 2 << 30
    """Memory of the checking process, beyond what it has at its start."""
    stack_bytes: int = 2 << 20
    """A stack of the checking process: less than a thread has here, where the grammar is compiled next."""
    max_cached: int = 64
    """Compiled grammars that are kept, the most recently used."""
    num_lexers: int = NUM_THREADS
    """Times that a grammar is compiled, so that so many threads fill masks of one grammar at once."""
    max_waiting: int = 256
    """Grammars that wait to be compiled; a request for one more is refused."""
    parser: Mapping[str, int | bool] = field(
        default_factory=lambda: MappingProxyType(
            {
                "max_items_in_row": 1_000,
                "step_max_items": 5_000,
                "max_lexer_states": 50_000,
                "verbose_errors": False,
            }
        )
    )
    """Keywords of llguidance's LLParserLimits. The first two bound the time of a mask and of a token, the
    third the memory of each lexer; the message of an error has no state of the parser."""
