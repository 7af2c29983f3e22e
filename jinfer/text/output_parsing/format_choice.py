"""The choice of a format for a model."""

import logging
from dataclasses import replace

from jinfer.errors import ConfigError
from jinfer.text.output_parsing.compiled_format import CompiledFormat
from jinfer.text.output_parsing.formats import (
    DEEPSEEK_CALL,
    DEEPSEEK_V3,
    DEEPSEEK_V3_1,
    FORMATS,
    HARMONY,
    HERMES,
    LLAMA3_JSON,
    LLAMA_PYTHONIC,
    MISTRAL,
    PLAIN,
    QWEN3_CODER,
    THINKING,
)
from jinfer.text.output_parsing.response_format import ResponseFormat, TextKind
from jinfer.text.output_parsing.response_template import NAME, read_response_template
from jinfer.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

EVIDENCE = (
    (HARMONY, ("<|channel|>", "<|message|>")),
    (DEEPSEEK_V3, (DEEPSEEK_CALL, "```json")),
    (DEEPSEEK_V3_1, (DEEPSEEK_CALL,)),
    (QWEN3_CODER, ("<tool_call>", "<function=")),
    (HERMES, ("<tool_call>",)),
    (MISTRAL, ("[TOOL_CALLS]",)),
    (LLAMA_PYTHONIC, ("[func_name1(",)),
    (LLAMA3_JSON, ("<|start_header_id|>", '"parameters"')),
    (LLAMA3_JSON, ("<|header_start|>", '"parameters"')),
    (THINKING, ("</think>",)),
)
"""The texts in a chat template, or of added tokens, by which a format is known. The first that fits wins."""


def choose_format(
    tokenizer: Tokenizer, *, tool_call_parser: str | None = None, reasoning_parser: str | None = None
) -> ResponseFormat:
    """The format in which a model answers.

    The names win over all else: a key of FORMATS each, or "response_template" for the model's own. With one
    of them given, the other half is the one that is found without names. Without names: the model's own
    template, if it is one that jinfer can use, else what its chat templates and added tokens tell, else no
    format at all. A template that cannot be used gives a warning that says why.

    Raises ConfigError for an unknown name, and where the model's template is named and cannot be used.
    """
    names = (tool_call_parser, reasoning_parser)
    found = None
    if tokenizer.response_template is not None and (NAME in names or None in names):
        found = _own_format(tokenizer, must_work=NAME in names)
    if found is None:
        found = _found_format(tokenizer)
    calls = found if tool_call_parser is None else _named(tool_call_parser, found, "tool_call_parser")
    reasoning = found if reasoning_parser is None else _named(reasoning_parser, found, "reasoning_parser")
    return calls if calls is reasoning else _mixed(calls, reasoning)


def check_format_names(**options: str | None) -> None:
    """Raises ConfigError for an option that names no format, before there is a model."""
    for option, name in options.items():
        if name is not None and name != NAME and name not in FORMATS:
            raise ConfigError(
                f"{option}={name!r} is no format; choose one of {', '.join(FORMATS)}, or {NAME!r} for the "
                "model's own"
            )


def _own_format(tokenizer: Tokenizer, *, must_work: bool) -> ResponseFormat | None:
    try:
        response_format = read_response_template(tokenizer.response_template)
        CompiledFormat(response_format, tokenizer.added_tokens)
    except (ValueError, RecursionError) as error:
        reason = f"the model's response_template cannot be used: {error}"
        if must_work:
            raise ConfigError(f"{reason}; choose one of {', '.join(FORMATS)}") from error
        logger.warning("%s; a format of jinfer's own is used instead", reason)
        return None
    return response_format


def _found_format(tokenizer: Tokenizer) -> ResponseFormat:
    text = "\n".join((*tokenizer.chat_templates.values(), *tokenizer.added_tokens))
    return next((known for known, parts in EVIDENCE if all(part in text for part in parts)), PLAIN)


def _named(name: str, found: ResponseFormat, option: str) -> ResponseFormat:
    if name == NAME and found.name != NAME:
        raise ConfigError(f"{option} is {NAME!r}, and the model has none; choose one of {', '.join(FORMATS)}")
    check_format_names(**{option: name})
    return found if name == NAME else FORMATS[name]


def _mixed(calls: ResponseFormat, reasoning: ResponseFormat) -> ResponseFormat:
    """The reasoning of one format, and all else of another."""
    regions = [region for region in reasoning.regions if region.kind is TextKind.REASONING]
    regions += [region for region in calls.regions if region.kind is not TextKind.REASONING]
    return replace(calls, name=f"{calls.name} with {reasoning.name}", regions=tuple(regions))
