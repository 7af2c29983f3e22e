"""Structured outputs of the model that ships with jinfer: every one fits, and company changes none."""

import dataclasses
import json
import os
import random
import re

import pytest

from jinfer import LLM, FinishReason, RequestError, SamplingParams
from jinfer.requests.structured_outputs import StructuredOutputs
from tests.text.grammar.schemas import random_schema

pytest.importorskip("llguidance", reason="needs llguidance: pip install 'jinfer[structured]'")
jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install 'jinfer[test]'")

NUM_SCHEMAS = int(os.environ.get("NUM_SCHEMAS", "24"))  # of which more can be asked for by hand
# Likely and unlikely tokens, or the model tells a story in a string. Quotes behind a full stop are among
# them, because the penalty on the plain quote, which every name repeats, outgrows its bias in a long object.
CLOSING = ('"', '."', '!"', '?"', "}", "]")
OPENING = (",", "\n", " ", ',"')
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def llm():
    with LLM(progress=False, max_num_seqs=4, max_num_batched_tokens=32, max_model_len=512) as llm:
        yield llm


ONE_NUMBER = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}


def params(seed: int = 0, **outputs) -> SamplingParams:
    return SamplingParams(
        temperature=1.0, seed=seed, max_tokens=400, structured_outputs=StructuredOutputs(**outputs)
    )


def texts_of(llm: LLM, some_params: list[SamplingParams]) -> list[str]:
    outputs = llm.generate([PROMPT] * len(some_params), some_params)
    for output in outputs:
        assert output.outputs[0].finish_reason is FinishReason.STOP, output.outputs[0].error
    return [output.text for output in outputs]


def test_outputs_of_random_schemas_are_valid(llm):
    schemas = [random_schema(random.Random(seed)) for seed in range(NUM_SCHEMAS)]
    short = {}
    for text in CLOSING + OPENING:
        (token_id,) = llm.tokenizer.encode(text, False)
        short[token_id] = 12.0 if text in CLOSING else -12.0
    some_params = [params(seed, json=schema) for seed, schema in enumerate(schemas)]
    texts = texts_of(
        llm, [dataclasses.replace(each, logit_bias=short, frequency_penalty=1.0) for each in some_params]
    )
    for schema, text in zip(schemas, texts, strict=True):
        jsonschema.validate(json.loads(text), schema)
    llm.check_integrity()


def test_every_kind_of_structure_is_kept(llm):
    found = texts_of(
        llm,
        [
            params(regex=r"[a-f]{3}-\d{2}"),
            params(choice=["a cat", "a dog"]),
            params(json=ONE_NUMBER),
            params(grammar='start: "x" ("y" | "z")+ "."'),
        ],
    )
    assert re.fullmatch(r"[a-f]{3}-\d{2}", found[0])
    assert found[1] in {"a cat", "a dog"}
    assert isinstance(json.loads(found[2])["a"], int)
    assert re.fullmatch(r"x[yz]+\.", found[3])


def test_company_and_overlap_change_no_structured_output(llm):
    mix = [params(seed, regex=r"[a-z ]{5,40}\.") for seed in range(3)]
    mix += [params(seed, choice=["red", "green", "blue"]) for seed in range(3)]
    free = dataclasses.replace(mix[0], structured_outputs=None, max_tokens=30)
    together = llm.generate([PROMPT] * 8, [free, *mix, free])
    assert together[0].outputs[0].token_ids == together[7].outputs[0].token_ids
    for each, output in zip(mix, together[1:7], strict=True):
        (alone,) = llm.generate([PROMPT], each)
        assert alone.outputs[0].token_ids == output.outputs[0].token_ids
    (alone,) = llm.generate([PROMPT], free)
    assert alone.outputs[0].token_ids == together[0].outputs[0].token_ids


def test_completions_of_a_request_keep_the_structure_each_by_itself(llm):
    (output,) = llm.generate([PROMPT], dataclasses.replace(params(regex=r"[a-d]{6}"), n=4))
    assert all(re.fullmatch(r"[a-d]{6}", each.text) for each in output.outputs)
    assert len({each.text for each in output.outputs}) > 1


def test_a_structure_that_ends_before_min_tokens_fails_its_request_alone(llm):
    bad = dataclasses.replace(params(choice=["no"]), min_tokens=20)
    failed, good = llm.generate([PROMPT] * 2, [bad, params(choice=["yes"])])
    assert failed.outputs[0].finish_reason is FinishReason.ERROR
    assert "min_tokens=20" in failed.outputs[0].error
    assert good.text == "yes"
    llm.check_integrity()


def test_a_stop_string_ends_a_structure_early(llm):
    (output,) = llm.generate([PROMPT], dataclasses.replace(params(regex=r"a{5}b{400}"), stop="bb"))
    assert output.text == "aaaaa"
    assert output.outputs[0].stop_reason == "bb"


def test_a_grammar_that_cannot_be_kept_is_the_callers_error(llm):
    with pytest.raises(RequestError, match="structured_outputs"):
        llm.generate([PROMPT], params(regex="("))
    assert texts_of(llm, [params(choice=["still here"])]) == ["still here"]


def test_bad_words_of_several_tokens_do_not_come(llm):
    free = SamplingParams(temperature=0, max_tokens=60)
    (before,) = llm.generate([PROMPT], free)
    word = next(word for word in re.findall(r"[a-z]{5,}", before.text))
    (after,) = llm.generate([PROMPT], dataclasses.replace(free, bad_words=[word]))
    assert word not in after.text
    assert after.text[: before.text.index(word)] == before.text[: before.text.index(word)]
