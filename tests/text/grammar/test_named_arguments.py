"""Arguments that are written by name: every one that the grammar allows is read, and fits its schema."""

import json
import random

import jsonschema
import pytest

from jinfer.errors import RequestError
from jinfer.text.grammar.tool_call_format import LLAMA_PYTHONIC, QWEN3_CODER
from jinfer.text.grammar.tool_calls import ToolChoice, tool_call_grammar
from jinfer.text.output_parsing.formats import FORMATS as FORMATS_THAT_ARE_READ
from tests.text.grammar.walking import random_walk
from tests.text.output_parsing.running import parse

BOTH = pytest.mark.parametrize("call_format", [LLAMA_PYTHONIC, QWEN3_CODER], ids=lambda one: one.name)
REQUIRED = ToolChoice(is_required=True)
NODE = {
    "type": "object",
    "properties": {"leaf": {"type": "boolean"}, "next": {"$ref": "#/$defs/Node"}},
    "required": ["leaf"],
}
PROPERTIES = {
    "text": {"type": "string"},
    "short": {"type": "string", "minLength": 1, "maxLength": 3},
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    "unit": {"enum": ["C", "it's", 'a "b"', ""]},
    "number": {"type": "number"},
    "share": {"type": "number", "minimum": 0},
    "count": {"type": "integer", "exclusiveMaximum": 5, "format": "int32"},
    "free_count": {"type": "integer"},
    "exact": {"type": "boolean"},
    "either": {"type": ["integer", "null"]},
    "level": {"enum": [1, 2.5, True, None, [False, "x"]]},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 3},
    "node": {"$ref": "#/$defs/Node"},
    "names": {"type": "object", "additionalProperties": {"type": "integer"}},
    "open": {"type": "object"},
    "any": {},
    "odd": {"anyOf": [{"type": "integer"}, {}]},
    "one": {"oneOf": [{"type": "integer"}, {"type": "array"}]},
}
SCHEMAS = [
    {"type": "object", "properties": {name: schema}, "required": [name], "$defs": {"Node": NODE}}
    for name, schema in PROPERTIES.items()
]


def function(parameters, name="f", strict=True):
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}}


def properties(*required, **schemas):
    return {"type": "object", "properties": schemas, "required": list(required)}


def grammar(model, call_format, tools, choice=REQUIRED):
    found = tool_call_grammar(call_format, tools, choice, model.tokenizer.added_tokens)
    return model.masker(found)


def written(call_format, *pairs):
    """A call of f, with values as they are written."""
    syntax = call_format.named_arguments
    arguments = [f"{syntax.begin}{name}{syntax.middle}{value}{syntax.end}" for name, value in pairs]
    call = f"f{call_format.middle}{syntax.separator.join(arguments)}{call_format.end}"
    return f"{call_format.first}{call_format.begin}{call}{call_format.last}"


def allows(model, call_format, schema, *pairs):
    masker = grammar(model, call_format, [function(schema)], ToolChoice(name="f"))
    return model.accepts(masker, written(call_format, *pairs)) and (
        masker.is_finished or model.allows_end(masker)
    )


def walk(model, call_format, tools, choice, seed):
    """A random answer, as the family's parser reads it."""
    closing = [ids[0] for text in "\"'}])\n</>" if len(ids := model.ids(text)) == 1]
    ids = random_walk(
        grammar(model, call_format, tools, choice),
        random.Random(seed),
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        closing_ids=closing,
        ending_ids=model.ids(call_format.named_arguments.end),
    )
    return parse(FORMATS_THAT_ARE_READ[call_format.name], model.tokenizer.decode(ids), tools=tools)


@pytest.mark.parametrize("schema", SCHEMAS, ids=PROPERTIES)
@BOTH
def test_what_is_forced_is_read_and_fits(demo, call_format, schema):
    for seed in range(3):
        parsed = walk(demo, call_format, [function(schema)], ToolChoice(name="f"), seed)
        assert [call.name for call in parsed.tool_calls] == ["f"]
        assert not parsed.content
        jsonschema.validate(json.loads(parsed.tool_calls[0].arguments), schema)


@pytest.mark.parametrize("seed", range(3))
@BOTH
def test_several_calls_of_many_arguments_are_read_and_fit(demo, call_format, seed):
    schema = properties("text", "exact", **{name: PROPERTIES[name] for name in PROPERTIES if name != "node"})
    parsed = walk(demo, call_format, [function(schema), function({}, name="g")], REQUIRED, seed)
    assert parsed.tool_calls
    assert not parsed.content
    for call in parsed.tool_calls:
        arguments = json.loads(call.arguments)
        jsonschema.validate(arguments, schema if call.name == "f" else {"maxProperties": 0})
        assert list(arguments) == [name for name in PROPERTIES if name in arguments]


@BOTH
def test_required_arguments_come_and_others_may_in_their_order(demo, call_format):
    one = {"const": 1}
    schema = properties("b", a=one, b=one, c=one)
    for names in ("b", "ab", "bc", "abc"):
        assert allows(demo, call_format, schema, *((name, 1) for name in names))
    for names in ("", "a", "ac", "ba", "bb", "bd"):
        assert not allows(demo, call_format, schema, *((name, 1) for name in names))
    assert allows(demo, call_format, properties(a=one, b=one))
    assert allows(demo, call_format, properties(a=one, b=one), ("b", 1))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("text", ('"a\\n"', "'a \"b\" \\'c\\''", "'[x](y)'"), ("a", '"\\/"', '"\\ud800"', '"a', "3")),
        ("short", ("'abc'", '"\\u00e9\\"b"'), ("''", "'abcd'")),
        ("unit", ('"C"', "'C'", '"it\'s"', "'it\\'s'", "'a \"b\"'"), ("C", "'F'")),
        ("share", ("0.5",), ("-1", "1" * 20)),
        ("free_count", ("-12",), ("1" * 19, "1.0", "True")),
        ("odd", ("5",), ("'5'", "True")),
        ("exact", ("True", "False"), ("true", "None", "1")),
        ("maybe", ("None", "'None'"), ("null",)),
        ("number", ("-1.5e9", "3"), ("1e999", "01", "1" * 19)),
        ("level", ('[False, "x"]', "2.5", "True", "None"), ("false", "3")),
        ("node", ("{'leaf': True, \"next\": {'leaf': False}}",), ("{'leaf': true}", "{}")),
        ("tags", ("['a', \"b\"]",), ("[]", "['a', 'b', 'c', 'd']", "['abcde']")),
    ],
)
def test_values_as_python_writes_them(demo, name, good, bad):
    schema = {**properties(name, **{name: PROPERTIES[name]}), "$defs": {"Node": NODE}}
    for value in good:
        assert allows(demo, LLAMA_PYTHONIC, schema, (name, value)), value
    for value in bad:
        assert not allows(demo, LLAMA_PYTHONIC, schema, (name, value)), value


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("text", ("", "5", ' <b>\n"x"</b> ', "\n"), ("a</parameter>", "a</tool_call>b")),
        ("short", ("abc", "\n"), ("", "abcd")),
        ("unit", ("C", "it's", ""), ('"C"', "F")),
        ("odd", ("5",), ('"5"', "true")),
        ("exact", ("true", "false"), ("True", "1", '"true"')),
        ("maybe", ("null",), ()),
        ("number", ("-1.5e9", "3"), ("1e999", '"3"', "1" * 19)),
        ("either", ("3", "null"), ("None", "3.5")),
        ("node", ('{"leaf": true}',), ("{'leaf': true}", '{"leaf": True}')),
        ("tags", ('["<b>"]',), ("[]",)),
        ("names", ('{"</b>": 5}',), ('{"</parameter>": 5}', '{"a": "b"}')),
    ],
)
def test_values_as_bare_text_or_json(demo, name, good, bad):
    schema = {**properties(name, **{name: PROPERTIES[name]}), "$defs": {"Node": NODE}}
    for value in good:
        assert allows(demo, QWEN3_CODER, schema, (name, value)), value
    for value in bad:
        assert not allows(demo, QWEN3_CODER, schema, (name, value)), value


@BOTH
def test_tools_that_are_not_strict_have_any_values_beside_those_that_are(demo, call_format):
    loose = {"properties": {"n": {"type": "integer", "uniqueItems": True}}, "minProperties": 1}
    tools = [function(properties(a={"const": 1})), function(loose, name="g", strict=False)]
    masker = grammar(demo, call_format, tools, ToolChoice())
    text = written(call_format, ("n", '"any"')).replace("f(", "g(").replace("=f", "=g")
    assert demo.accepts(masker.copy(), text)
    assert demo.accepts(masker.copy(), "Well, [f] it is.")
    assert not demo.accepts(masker, written(call_format, ("a", 2)))


def test_patterns_and_formats_of_quoted_texts_are_kept(demo):
    schema = properties(
        "a", "b", a={"type": "string", "pattern": "^x+$"}, b={"type": "string", "format": "date"}
    )
    assert allows(demo, LLAMA_PYTHONIC, schema, ("a", '"xx"'), ("b", '"2026-01-31"'))
    assert not allows(demo, LLAMA_PYTHONIC, schema, ("a", '"y"'))
    assert not allows(demo, LLAMA_PYTHONIC, schema, ("a", '"x"'), ("b", '"soon"'))


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


TEXT = {"type": "string"}
REFUSED = [
    ({"anyOf": [properties(a=TEXT)]}, "parameters.anyOf"),
    ({"type": "array"}, "arguments are an object"),
    ({"additionalProperties": TEXT}, "name them in properties"),
    ({**properties(a=TEXT), "minProperties": 1}, "parameters.minProperties=1"),
    (properties("b", a=TEXT), "add 'b' to its properties"),
    (properties(**{"a b": TEXT}), "the format cannot write the name"),
    (properties(a=False), "give one that values fit"),
    (properties(a={"minLength": 3}), "its 'type' must be one"),
    (properties(a={"type": ["text"]}), "some of string, number"),
    (properties(a={"type": "array", "uniqueItems": True}), "uniqueItems=True"),
    (properties(a={"type": "object", "patternProperties": {}}), "patternProperties"),
    (properties(a={"type": "integer", "enum": ["a"]}), "no value of it has the 'type'"),
    (properties(a={"type": "string", "minLength": 3, "maxLength": 2}), "minLength and maxLength"),
    (properties(a={"$ref": "#"}), r"a\.\$ref='#'.*write it there"),
    (
        properties(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": {"$ref": "#/$defs/A"}}},
        "leads to itself",
    ),
    (
        properties(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": properties(b={"format": "date"})}},
        r"a\.properties\.b=",
    ),
    (properties(a={"allOf": [TEXT, TEXT]}), "join the parts"),
    (properties(a={"oneOf": [{"type": "integer"}, {"type": "number"}]}), "use anyOf"),
    (properties(a={"anyOf": [TEXT], "type": "string"}), "a.type='string'"),
    (properties(a=nested(900)), "nest less"),
]


@pytest.mark.parametrize(("parameters", "words"), REFUSED, ids=[words for _, words in REFUSED])
@BOTH
def test_what_cannot_be_kept_is_refused(call_format, parameters, words):
    with pytest.raises(RequestError, match=words) as caught:
        tool_call_grammar(call_format, [function(parameters)], REQUIRED, {})
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "pattern": "x"}, "pattern='x'"),
        ({"type": "string", "format": "date"}, "format='date'"),
        ({"enum": ["a</parameter>"]}, "in it"),
        ({"const": "\ud800"}, "UTF-8"),
        ({"type": ["string", "integer"], "enum": [1]}, "the reader of calls takes all for text"),
    ],
)
def test_what_bare_text_cannot_keep_is_refused(schema, words):
    with pytest.raises(RequestError, match=words) as caught:
        tool_call_grammar(QWEN3_CODER, [function(properties(a=schema))], REQUIRED, {})
    assert caught.value.param == "tools"


@pytest.mark.parametrize("name", ["a:b", "3d"])
def test_a_function_whose_name_is_none_in_python_is_refused(name):
    with pytest.raises(RequestError, match=f"the tool '{name}' has name='{name}'") as caught:
        tool_call_grammar(LLAMA_PYTHONIC, [function({}, name=name)], REQUIRED, {})
    assert caught.value.param == "tools"
