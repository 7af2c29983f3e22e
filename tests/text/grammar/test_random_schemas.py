"""Whatever is drawn under the masks of a schema fits the schema, by another library's judgement."""

import json
import random

import jsonschema
import pytest

from jinfer.requests.structured_outputs import StructuredOutputs
from tests.text.grammar.schemas import random_schema
from tests.text.grammar.walking import random_walk

NUM_SCHEMAS = 100  # 1,000 were run once
CLOSING = ('"', "}", "]", '"}', '"]', "}}", "]}")


def walk(model, schema, seed):
    masker = model.masker(StructuredOutputs(json=schema))
    closing = [ids[0] for text in CLOSING if len(ids := model.ids(text)) == 1]
    ids = random_walk(
        masker,
        random.Random(seed),
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        closing_ids=closing,
    )
    return model.tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(NUM_SCHEMAS))
def test_outputs_fit_random_schemas(demo, seed):
    schema = random_schema(random.Random(seed))
    text = walk(demo, schema, seed)
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("seed", range(5))
def test_outputs_of_a_real_tokenizer_fit_them_too(qwen3_model, seed):
    schema = random_schema(random.Random(seed))
    jsonschema.validate(json.loads(walk(qwen3_model, schema, seed)), schema)


def test_a_schema_as_text_is_the_same(demo):
    schema = {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text = json.dumps(schema)
    assert json.loads(walk(demo, text, 0)) == json.loads(walk(demo, schema, 0)) == {"a": 1}


def test_any_object_is_one(demo):
    masker = demo.masker(StructuredOutputs(json_object=True))
    assert demo.accepts(masker, '{"a": [1, {"b": null}]}')
    assert masker.is_finished
    assert demo.allows(demo.masker(StructuredOutputs(json_object=True))) <= {
        token_id for token_id in range(demo.vocab_size) if demo.tokenizer.token_text(token_id).startswith("{")
    }
