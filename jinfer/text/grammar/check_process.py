"""The process in which grammars are compiled first, so that one which brings llguidance down, or is never
done, ends no engine.

The setup is {"tokens": texts by id, "vocab_size", "limits": those of the parser}, a question is a grammar,
and an answer llguidance's error, or "". Little is imported, so that starting it takes a tenth of a second.
"""

from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from jinfer.text.limited_process.answering import Answer, answer_lines


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


def new_answer(setup: Any) -> Answer:
    """The check of a grammar for one vocabulary."""
    outline = TokenizerWrapper(VocabularyOutline(setup["tokens"], setup["vocab_size"]))
    tokenizer = LLTokenizer(outline, n_vocab=setup["vocab_size"])
    limits = LLParserLimits(**setup["limits"])

    def error(grammar: str) -> str:
        try:
            return LLMatcher(tokenizer, grammar, log_level=0, limits=limits).get_error()
        except ValueError as error:
            return str(error)

    return error


if __name__ == "__main__":
    answer_lines(new_answer)
