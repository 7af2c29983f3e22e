"""Reasoning and content of an answer, in the formats of models whose markers are tokens."""

from collections.abc import Sequence

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from jinfer.cli.chat_parts import AnswerFormat, Part, PlainReader
from jinfer.requests.outputs import StreamPiece
from jinfer.requests.sampling_params import SamplingParams
from jinfer.text.detokenizer import Detokenizer
from jinfer.text.tokenizer import Tokenizer

CHATML = ("<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>")
MISTRAL = ("[INST]", "[/INST]", "[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]")
HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<|constrain|>")
OPENED = "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"


def tokenizer_of(special: Sequence[str], added: Sequence[str] = ()) -> Tokenizer:
    """A token for each byte and each marker, and a template that names the markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    backend.add_tokens([AddedToken(text, normalized=False) for text in added])
    return Tokenizer(backend, chat_template=" ".join((*special, *added)))


def read(tokenizer: Tokenizer, prompt: str, answer: str, **params) -> dict[Part, str]:
    """The parts of an answer that comes token by token, as an engine streams it."""
    chosen = SamplingParams(**params)
    prompt_ids = tokenizer.encode(prompt, False)
    detokenizer = Detokenizer(tokenizer, stop=chosen.stop_strings, context=prompt_ids)
    reader = AnswerFormat(tokenizer).reader(prompt_ids, chosen)
    texts: list = []
    for token_id in tokenizer.encode(answer, False):
        texts += reader.read(StreamPiece(0, 0, detokenizer.add(token_id), (token_id,), None))
        if detokenizer.stop_reason is not None:
            break
    else:
        texts += reader.read(StreamPiece(0, 0, detokenizer.finish(), (), None))
    texts += reader.finish()
    return {part: "".join(text for each, text in texts if each is part) for part in Part}


@pytest.mark.parametrize(
    ("markers", "prompt", "answer", "reasoning", "content"),
    [
        ((CHATML, THINK), OPENED, "<think>\nwhy\n</think>\n\nso<|im_end|>", "why", "so"),
        ((CHATML, THINK), OPENED, "so <b>", "", "so <b>"),
        ((CHATML, THINK), OPENED + "<think>\n", "why</think>so", "why", "so"),
        ((CHATML, THINK), OPENED + "<think>\n\n</think>\n\n", "so", "", "so"),
        ((CHATML, THINK), OPENED, "<think>why", "why", ""),
        ((CHATML, THINK), OPENED, "<tool_call>f</tool_call>", "", "<tool_call>f</tool_call>"),
        ((CHATML,), OPENED, "<think>why</think>so", "", "<think>why</think>so"),
        ((MISTRAL,), "[INST]why?[/INST]", "[THINK]why[/THINK]so", "why", "so"),
        (
            (HARMONY,),
            "<|start|>user<|message|>why?<|end|><|start|>assistant",
            "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>so<|return|>",
            "why",
            "so",
        ),
    ],
)
def test_the_parts_are_those_of_the_models_format(markers, prompt, answer, reasoning, content):
    parts = read(tokenizer_of(*markers), prompt, answer)
    assert parts == {Part.REASONING: reasoning, Part.CONTENT: content}


def test_a_stop_string_cuts_the_parts():
    parts = read(tokenizer_of(CHATML, THINK), OPENED, "<think>why</think>so it is", stop=[" it"])
    assert parts == {Part.REASONING: "why", Part.CONTENT: "so"}


def test_plain_text_is_content_whatever_marks_it_has():
    reader = PlainReader()
    assert reader.read(StreamPiece(0, 0, "<think>a</think>", (5,), None)) == [
        (Part.CONTENT, "<think>a</think>")
    ]
    assert reader.finish() == []
