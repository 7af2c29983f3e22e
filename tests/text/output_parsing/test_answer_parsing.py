"""Markers that are tokens, placed by a detokenizer, and prompts that begin an answer."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from jinfer.text.detokenizer import Detokenizer
from jinfer.text.output_parsing import formats
from jinfer.text.output_parsing.answer_parsing import AnswerParsing, parse_all
from jinfer.text.output_parsing.deltas import (
    ParsedOutput,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
    join,
)
from jinfer.text.output_parsing.response_format import ResponseFormat
from jinfer.text.placed_token import PlacedToken
from jinfer.text.tokenizer import Tokenizer
from tests.text.output_parsing.running import calls

CALL = '{"name": "f", "arguments": {"a": 1}}'


def byte_tokenizer(special: Sequence[str], added: Sequence[str]) -> Tokenizer:
    """A token for each byte, and for each of these texts; those that are special are skipped in texts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    backend.add_tokens([AddedToken(text, normalized=False) for text in added])
    return Tokenizer(backend)


CHATML = byte_tokenizer(
    ["<|im_start|>", "<|im_end|>"], ["<think>", "</think>", "<tool_call>", "</tool_call>"]
)
HARMONY = byte_tokenizer(
    ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|constrain|>", "<|return|>"], []
)


def run(
    tokenizer: Tokenizer,
    response_format: ResponseFormat,
    token_ids: Sequence[int],
    prompt: str = "",
    stop: tuple[str, ...] = (),
    **options: Any,
) -> ParsedOutput:
    """An answer of these tokens, as a server reads it."""
    parsing = AnswerParsing(tokenizer, response_format)
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    detokenizer = Detokenizer(
        tokenizer, context=prompt_ids, stop=stop, placed_token_ids=parsing.marker_token_ids
    )
    parser = parsing.parser(prompt_ids, **{"tools": (), **options})
    deltas = []
    num_placed = 0
    for token_id in token_ids:
        text = detokenizer.add(token_id)
        deltas += parser.feed(text, detokenizer.placed_tokens[num_placed:])
        num_placed = len(detokenizer.placed_tokens)
        if detokenizer.stop_reason is not None:
            break
    deltas += parser.feed(detokenizer.finish(), detokenizer.placed_tokens[num_placed:])
    return join([*deltas, *parser.finish()])


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_tokens_are_markers_and_their_spelling_is_text():
    answer = ids(CHATML, "<think>a</think>use ") + [token for c in "<tool_call>" for token in ids(CHATML, c)]
    answer += ids(CHATML, f" or<tool_call>{CALL}</tool_call><|im_end|>")
    output = run(CHATML, formats.HERMES, answer)
    assert (output.reasoning, output.content) == ("a", "use <tool_call> or")
    assert calls(output) == [("f", '{"a": 1}')]


def test_special_tokens_are_markers_though_their_text_is_left_out():
    text = "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
    output = run(
        HARMONY, formats.HARMONY, ids(HARMONY, text + '<|constrain|>json<|message|>{"a": 1}<|call|>')
    )
    assert (output.reasoning, output.content) == ("So.", None)
    assert calls(output) == [("f", '{"a": 1}')]


def test_a_character_that_a_marker_cuts_does_not_move_it():
    half = ids(CHATML, "é")[:1]
    output = run(CHATML, formats.HERMES, [*ids(CHATML, "<think>a"), *half, *ids(CHATML, "</think>b")])
    assert (output.reasoning, output.content) == ("a\ufffd", "b")


@pytest.mark.parametrize("stop", ["zz", ">x", "<t", "ol_call>{", "a", "k>b", "l>"])
def test_a_stop_string_may_hold_back_or_cut_markers(stop):
    """The beginning of a marker that it cuts is text."""
    text = f"<think>a</think>b<tool_call>{CALL}</tool_call>"
    before = ids(CHATML, text.partition(stop)[0])
    expected = run(CHATML, formats.HERMES, before, new_call_id=lambda: "id")
    stopped = run(CHATML, formats.HERMES, ids(CHATML, text), stop=(stop,), new_call_id=lambda: "id")
    assert stopped == expected


PROMPT = "<|im_start|>user\n<think>Hi</think><|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    "nothing": (PROMPT, "a</think>b", None, "a</think>b"),
    "an open thought": (PROMPT + "<think>\n", "\na\n</think>\n\nb", "a", "b"),
    "an empty thought": (PROMPT + "<think>\n\n</think>\n\n", "b", None, "b"),
    "the answer's beginning": (PROMPT + "Well, ", "b", None, "b"),
    "the thought's beginning": (PROMPT + "<think>Well ", " a</think>b", " a", "b"),
    "no anchor": ("<think>", "a</think>b", None, "a</think>b"),
    "a long message": (PROMPT + "<think>" + "x" * 3_000, "a</think>b", "a", "b"),
}


@pytest.mark.parametrize(("prompt", "answer", "reasoning", "content"), PROMPTS.values(), ids=PROMPTS)
def test_an_answer_begins_where_the_prompt_ends(prompt, answer, reasoning, content):
    output = run(CHATML, formats.HERMES, ids(CHATML, answer), prompt)
    assert (output.reasoning, output.content) == (reasoning, content)


def test_a_call_that_the_prompt_begins_is_given_whole():
    parsing = AnswerParsing(CHATML, formats.HERMES)
    prompt = f'{PROMPT}<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "g", "arguments": {{"b"'
    parser = parsing.parser(ids(CHATML, prompt), tools=(), new_call_id=lambda: "id")
    assert parser.feed(": 2") == [ToolCallStart(0, "id", "g"), ToolCallArguments(0, '{"b": 2')]


def test_a_prompt_with_tool_results_behind_the_anchor():
    """DeepSeek's template opens no new message after them."""
    names = [
        "Assistant",
        "tool_calls_begin",
        "tool_call_begin",
        "tool_sep",
        "tool_call_end",
        "tool_calls_end",
    ]
    texts = [f"<\uff5c{name.replace('_', chr(0x2581))}\uff5c>" for name in [*names, "tool_outputs_end"]]
    tokenizer = byte_tokenizer([], [*texts, "<think>", "</think>"])
    prompt = f"{texts[0]}<think>{texts[-1]}"
    assert run(tokenizer, formats.DEEPSEEK_V3, ids(tokenizer, "Dry."), prompt).content == "Dry."


def test_ids_are_as_long_as_the_template_asks():
    def call_id(response_format: ResponseFormat, text: str) -> str:
        return run(CHATML, response_format, ids(CHATML, text)).tool_calls[0].id

    mistral = {call_id(formats.MISTRAL, "[TOOL_CALLS]f[ARGS]{}") for _ in range(20)}
    assert len(mistral) == 20
    assert all(len(text) == 9 and text.isalnum() for text in mistral)
    assert call_id(formats.HERMES, f"<tool_call>{CALL}").startswith("call_")


MARKERS = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", CALL, "é", "\n", "x"]
)


@given(parts=st.lists(MARKERS, max_size=12), stop=st.sampled_from([(), ("zz",), ("x\n",), (">\n",)]))
@settings(max_examples=150, deadline=None)
def test_a_stream_and_the_whole_text_give_the_same(parts, stop):
    token_ids = ids(CHATML, "".join(parts)) if parts else []
    parsing = AnswerParsing(CHATML, formats.HERMES)
    detokenizer = Detokenizer(CHATML, stop=stop, placed_token_ids=parsing.marker_token_ids)
    for token_id in token_ids:
        detokenizer.add(token_id)
        if detokenizer.stop_reason is not None:
            break
    detokenizer.finish()
    parser = parsing.parser(tools=(), new_call_id=lambda: "id")
    whole = parse_all(parser, detokenizer.text, detokenizer.placed_tokens)
    assert run(CHATML, formats.HERMES, token_ids, stop=stop, new_call_id=lambda: "id") == whole


@given(text=st.text("é<>x", max_size=8), skips=st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_placed_tokens_are_where_their_text_is(text, skips):
    token_ids = ids(CHATML, f"{text}<think>{text}<|im_end|>{text}") if text else []
    places = {CHATML.added_tokens[name]: name for name in ("<think>", "<|im_end|>")}
    added = Detokenizer(CHATML, skip_special_tokens=skips, placed_token_ids=places)
    for token_id in token_ids:
        added.add(token_id)
    added.finish()
    at_once = Detokenizer(CHATML, skip_special_tokens=skips, placed_token_ids=places)
    at_once.finish(token_ids)
    assert at_once.placed_tokens == added.placed_tokens
    assert [token.token_id for token in added.placed_tokens] == [i for i in token_ids if i in places]
    for token in added.placed_tokens:
        is_left_out = skips and places[token.token_id] == "<|im_end|>"
        assert added.text[token.start : token.end] == ("" if is_left_out else places[token.token_id])


def test_a_placed_token_is_given_out_whole():
    detokenizer = Detokenizer(CHATML, stop=(">x",), placed_token_ids=CHATML.added_tokens.values())
    assert [detokenizer.add(token_id) for token_id in ids(CHATML, "a<think>b")] == ["a", "", "<think>b"]
    assert detokenizer.placed_tokens == [PlacedToken(CHATML.added_tokens["<think>"], 1, 8)]


def test_no_place_is_noted_without_need():
    detokenizer = Detokenizer(CHATML)
    detokenizer.finish(ids(CHATML, "a<think>b"))
    assert detokenizer.placed_tokens == []


def test_qwen3_answers_through_its_own_tokenizer_and_template(qwen3):
    parsing = AnswerParsing(qwen3, formats.HERMES)
    assert {qwen3.decode([i]) for i in parsing.marker_token_ids} >= {"<think>", "</think>", "<tool_call>"}
    messages = [{"role": "user", "content": "Say <think> to me."}]
    answer = qwen3.encode(f"<think>\nSo 日本.\n</think>\n\nHi.\n<tool_call>\n{CALL}\n</tool_call><|im_end|>")
    for thinks in (True, False):
        prompt_ids = qwen3.apply_chat_template(messages, enable_thinking=thinks)
        detokenizer = Detokenizer(qwen3, context=prompt_ids, placed_token_ids=parsing.marker_token_ids)
        detokenizer.finish(answer)
        output = parse_all(parsing.parser(prompt_ids, tools=()), detokenizer.text, detokenizer.placed_tokens)
        assert (output.reasoning, output.content, calls(output)) == ("So 日本.", "Hi.", [("f", '{"a": 1}')])


def test_deepseek_r1s_template_opens_the_thought(shared_data):
    source = shared_data("chat_templates/llama-cpp-deepseek-r1.jinja").read_text(encoding="utf-8")
    assistant = "<\uff5cAssistant\uff5c>"
    tokenizer = byte_tokenizer([], [assistant, "<think>", "</think>"])
    prompt_ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], chat_template=source)
    parser = AnswerParsing(tokenizer, formats.DEEPSEEK_V3).parser(prompt_ids, tools=())
    assert parser.feed("So.") == [ReasoningDelta("So.")]
