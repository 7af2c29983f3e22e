"""ChatTemplate by itself, and against transformers on the templates of published models."""

import collections
import dataclasses
import datetime
import enum
import json
from types import MappingProxyType

import jinja2
import numpy as np
import pytest

from jinfer.errors import RequestError, TokenizerError
from jinfer.text.chat_template import ChatTemplate

USER = [{"role": "user", "content": "Hi"}]


def render(source: str, messages=USER, special_tokens=None, **options) -> str:
    return ChatTemplate(source, special_tokens or {}).render(messages, **options)


def test_messages_special_tokens_and_the_generation_prompt_reach_the_template():
    turns = "{% for m in messages %}[{{ m.role }}]{{ m['content'] }}{% endfor %}"
    source = "{{ bos_token }}" + turns + "{{ add_generation_prompt }}"
    assert render(source, special_tokens={"bos_token": "<s>"}) == "<s>[user]HiTrue"
    assert render(source, add_generation_prompt=False) == "[user]HiFalse"


def test_blocks_take_their_line_with_them():
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"


def test_variables_reach_the_template_and_win_over_special_tokens():
    source = "{{ enable_thinking }}{{ bos_token }}"
    assert (
        render(source, special_tokens={"bos_token": "<s>"}, enable_thinking=False, bos_token="B") == "FalseB"
    )


def test_tools_are_none_when_not_given():
    source = "{{ tools is none }} {{ documents is none }} {{ tools | tojson }}"
    assert render(source) == "True True null"
    assert render(source, tools=[{"name": "é"}]) == 'False True [{"name": "é"}]'


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("tojson", '{"b": "<é\'>", "a": [1]}'),
        ("tojson(indent=2)", '{\n  "b": "<é\'>",\n  "a": [\n    1\n  ]\n}'),
        ("tojson(ensure_ascii=true)", '{"b": "<\\u00e9\'>", "a": [1]}'),
        ("tojson(sort_keys=true, separators=(',', ':'))", '{"a":[1],"b":"<é\'>"}'),
    ],
)
def test_tojson_is_plain_json(call, expected):
    assert render(f"{{{{ value | {call} }}}}", value={"b": "<é'>", "a": (1,)}) == expected


def test_loop_controls_work():
    assert (
        render(
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% if i == 3 %}{% break %}"
            "{% endif %}{% endfor %}"
        )
        == "023"
    )


def test_the_generation_tag_is_a_scope():
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert render(source) == "21"


def test_strftime_now_is_todays_date():
    days = {datetime.date.today().isoformat() for _ in range(2)}
    days.add(render("{{ strftime_now('%Y-%m-%d') }}"))
    days.add(datetime.date.today().isoformat())
    assert len(days) <= 2  # two around midnight


def test_raise_exception_is_a_request_error_with_the_templates_words():
    with pytest.raises(RequestError, match="refuses these messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_syntax_error_names_the_line():
    with pytest.raises(TokenizerError, match="line 2 "):
        ChatTemplate("a\n{% if %}", {})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\nb\n{{ messages[0].content.nothing.more }}", "at line 3: UndefinedError"),
        ("a\n{{ 1 + 'a' }}", "at line 2: TypeError"),
        ("a\n{{ 1 // 0 }}", "at line 2: ZeroDivisionError"),
        ("\n{{ messages.append(1) }}", "at line 2: SecurityError"),
        ("\n{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages[0].pop('role') }}", "SecurityError"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)
def test_a_failure_while_rendering_is_a_request_error(source, message):
    with pytest.raises(RequestError, match=message):
        render(source)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "empty"),
        ("Hi", "list of mappings, not str"),
        ({"role": "user"}, "list of mappings, not dict"),
        (["Hi"], r"messages\[0\] is a str"),
        ([{"content": "Hi"}], "role None"),
        ([{"role": 1, "content": "Hi"}], "role 1"),
        ([*USER, {"role": "assistant"}], r"messages\[1\] has no content"),
        ([{"role": "user", "content": None}], "no content"),
        ([{"role": "user", "content": 3}], "content is a int"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            r"content\[0\] has the type 'image_url'",
        ),
        ([{"role": "user", "content": ["Hi"]}], "type None"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text None"),
        ([{"role": "user", "content": "Hi", "extra": open}], r"messages\[0\].extra"),
    ],
)
def test_malformed_messages_are_refused(messages, message):
    with pytest.raises(RequestError, match=message):
        render("x", messages)


class Role(str, enum.Enum):  # noqa: UP042  as callers have them
    USER = "user"

    def __str__(self):
        return "Role.USER"


class Level(enum.IntEnum):
    HIGH = 3


class Half(float):
    def __repr__(self):
        return "a half"


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Note:
    title: str
    level: Level = Level.HIGH


class Model:
    """As pydantic's models are converted."""

    def __init__(self, **fields):
        self.fields = fields

    def model_dump(self):
        return self.fields


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Role.USER, "user"),
        (np.array(["a"])[0], "a"),
        (Level.HIGH, 3),
        (Half(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(False), False),
        (collections.OrderedDict(b=1, a=Role.USER), {"b": 1, "a": "user"}),
        (collections.defaultdict(list, a=[Role.USER]), {"a": ["user"]}),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        (collections.UserDict(a=1), {"a": 1}),
        (Point(1, Role.USER), [1, "user"]),
        ([Point(1, 2)], [[1, 2]]),
        (
            {Role.USER: 1, 1: 2, None: 3, False: 4, 0.5: 5},
            {"user": 1, "1": 2, "null": 3, "false": 4, "0.5": 5},
        ),
        ({np.int64(3): 1, np.str_("a"): 2}, {"3": 1, "a": 2}),
        (Note("T"), {"title": "T", "level": 3}),
        (Model(a=Role.USER, b=Model(c=1)), {"a": "user", "b": {"c": 1}}),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("place", ["variable", "message", "tools", "documents"])
def test_subclasses_of_plain_types_are_plain_in_the_template(value, plain, place):
    if place == "variable":
        text = render("{{ value | tojson }}", value=value)
    elif place == "message":
        text = render("{{ messages[0].value | tojson }}", [{**USER[0], "value": value}])
    else:
        text = render(f"{{{{ {place}[0].value | tojson }}}}", **{place: [{"value": value}]})
    assert json.loads(text) == plain


def test_no_method_of_a_subclass_reaches_the_template():
    source = "{{ messages[0].role }} {{ value.name is defined }} {{ point.x is defined }}"
    message = [{"role": Role.USER, "content": np.str_("a")}]
    assert render(source, message, value=Role.USER, point=Point(1, 2)) == "user False False"


@pytest.mark.parametrize(
    "message", [Model(role=Role.USER, content="Hi", name=None), MappingProxyType(USER[0])]
)
def test_messages_may_be_objects_that_stand_for_mappings(message):
    assert render("{{ messages[0].content }}{{ messages[0].name is defined }}", [message]) == "HiFalse"


def test_subclasses_of_str_are_field_names_too():
    class Field(str, enum.Enum):  # noqa: UP042  as callers have them
        ROLE = "role"
        CONTENT = "content"

    messages = [{Field.ROLE: Role.USER, Field.CONTENT: [{np.str_("type"): Role("user"), "x": 1}]}]
    with pytest.raises(RequestError, match=r"content\[0\] has the type 'user'"):
        render("{{ messages[0].content }}", messages)
    assert render("{{ messages[0].content }}", [{Field.ROLE: Role.USER, Field.CONTENT: "a"}]) == "a"


@pytest.mark.parametrize(
    "value",
    [object(), open, {1, 2}, b"a", np.arange(2), 1j, {(1, 2): 3}, np.datetime64("2025-01-01"), Role, Note],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(RequestError, match=r"value.* what JSON can hold"):
        render("x", [{**USER[0], "value": value}])


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b\n"}, {"type": "text", "text": "c"}]
    assert render("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "ab\nc"


def test_none_is_as_good_as_absent():
    messages = [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}], "name": None}]
    source = (
        "{{ messages[0].content is defined }} {{ messages[0].name is defined }} "
        "{{ messages[0].tool_calls | length }}"
    )
    assert render(source, messages) == "False False 1"


def test_rendering_leaves_the_callers_messages_alone():
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": None}]
    render("{{ messages[0].content }}", messages)
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": None}]


def test_messages_cannot_be_replaced_by_a_variable():
    with pytest.raises(RequestError, match="'messages' cannot be given"):
        ChatTemplate("x", {}).render(USER, messages=[])


# --- options of transformers' function


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenize", False),
        ("return_dict", True),
        ("return_tensors", "np"),
        ("return_assistant_tokens_mask", True),
        ("padding", True),
        ("padding", "max_length"),
        ("truncation", True),
        ("max_length", 5),
        ("tokenizer_kwargs", {"add_special_tokens": True}),
        ("sanitize_control_tokens", True),
        ("conversation", USER),
        ("chat_template", "x"),
    ],
)
def test_an_option_of_transformers_is_no_variable(name, value):
    with pytest.raises(RequestError, match=name):
        render(f"{{{{ {name} }}}}", **{name: value})


def test_an_option_that_asks_for_what_happens_anyway_is_accepted():
    options = {
        "tokenize": True,
        "return_dict": False,
        "padding": False,
        "truncation": False,
        "max_length": None,
    }
    options |= {"return_tensors": None, "return_assistant_tokens_mask": False, "tokenizer_kwargs": {}}
    assert render("{{ tokenize is defined }}{{ padding is defined }}", **options) == "FalseFalse"


@pytest.mark.parametrize("items", ["a", {"a": 1}, ["a"], [1], [open]])
@pytest.mark.parametrize("name", ["tools", "documents"])
def test_tools_and_documents_are_lists_of_mappings(name, items):
    with pytest.raises(RequestError, match=name):
        render("x", **{name: items})


CLOSED = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
AS_IT_IS = CLOSED.replace(" | trim", "")
IN_PARTS = CLOSED.replace("{{ m.content | trim }}", "{% for p in m.content %}{{ p.text }}{% endfor %}")
WITH_REASONING = CLOSED.replace("{{ m.content", "<{{ m.reasoning_content }}>{{ m.content")
PREFILL = [*USER, {"role": "assistant", "content": " b "}]
PREFILL_PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": " c "}]},
]
THOUGHT = [*USER, {"role": "assistant", "content": "b", "reasoning_content": "thus"}]
CONTINUED = {
    "trimmed": (CLOSED, PREFILL, True, "[user]Hi</s>[assistant]b"),
    "as it is": (AS_IT_IS, PREFILL, True, "[user]Hi</s>[assistant] b "),
    "in parts": (IN_PARTS, PREFILL_PARTS, True, "[user]Hi</s>[assistant]b c "),
    "a field": (WITH_REASONING, THOUGHT, "reasoning_content", "[user]<>Hi</s>[assistant]<thus"),
    "the user's": (AS_IT_IS, USER, True, "[user]Hi"),
}


@pytest.mark.parametrize("name", CONTINUED)
def test_the_final_message_is_continued(name):
    source, messages, field, right = CONTINUED[name]
    assert render(source, messages, continue_final_message=field) == right
    assert render(source, messages, continue_final_message=field, add_generation_prompt=False) == right


@pytest.mark.oracle
@pytest.mark.parametrize("name", CONTINUED)
def test_the_final_message_is_continued_as_in_transformers(name, hugging_face):
    source, messages, field, _ = CONTINUED[name]
    expected = hugging_face.apply_chat_template(
        messages, chat_template=source, tokenize=False, continue_final_message=field
    )
    assert render(source, messages, continue_final_message=field) == expected


def test_parts_for_a_template_that_reads_strings_are_continued():
    assert render(CLOSED, PREFILL_PARTS, continue_final_message=True) == "[user]Hi</s>[assistant]b c"


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        (PREFILL, {"add_generation_prompt": True}, "add_generation_prompt and continue_final_message"),
        ([*USER, {"role": "assistant", "tool_calls": []}], {}, "no text in 'content'"),
        (PREFILL, {"continue_final_message": "thinking"}, "no text in 'thinking'"),
        ([*USER, {"role": "assistant", "content": []}], {}, "no text in 'content'"),
        (THOUGHT, {"continue_final_message": "reasoning_content"}, "does not write"),
    ],
)
def test_a_message_that_cannot_be_continued_is_refused(messages, options, message):
    with pytest.raises(RequestError, match=message):
        render(CLOSED, messages, **{"continue_final_message": True, **options})


TEMPLATES = [
    "Qwen-Qwen2.5-7B-Instruct",
    "google-gemma-2-2b-it",
    "llama-cpp-deepseek-r1",
    "meta-llama-Llama-3.1-8B-Instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "tokenizers/qwen3",
]
SYSTEM = {"role": "system", "content": "Be brief. <b>'é'</b>"}
TURNS = [*USER, {"role": "assistant", "content": "Hello.\n"}, {"role": "user", "content": "  Why 🦄?  "}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "The time in <city>",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = [
    *USER,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {"name": "now", "arguments": {"city": "é"}}}
        ],
    },
    {"role": "tool", "content": "12:00", "name": "now", "tool_call_id": "abcdefghi"},
]
CONVERSATIONS = {
    "one turn": (USER, {}),
    "no generation prompt": (USER, {"add_generation_prompt": False}),
    "three turns": (TURNS, {}),
    "ends with assistant": (TURNS[:2], {"add_generation_prompt": False}),
    "system": ([SYSTEM, *USER], {}),
    "system and turns": ([SYSTEM, *TURNS], {}),
    "two users": ([*USER, *USER], {}),
    "thinking off": (USER, {"enable_thinking": False}),
    "tools": (USER, {"tools": TOOLS}),
    "tool call": (CALL, {"tools": TOOLS}),
    "date": (USER, {"date_string": "1 Jan 2025"}),
}
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="session")
def hugging_face():
    """A tokenizer of transformers, for its apply_chat_template alone."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    return transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL_TOKENS)


def text_or_error(render, *refusals: type[Exception]) -> tuple[str | None, str]:
    """In: a call  Out: (its text, ""), or where it refuses (None, why)."""
    try:
        return render(), ""
    except refusals as error:
        return None, str(error)


@pytest.mark.oracle
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_published_templates_render_as_in_transformers(name, conversation, shared_data, hugging_face):
    path = f"{name}/chat_template.jinja" if "/" in name else f"chat_templates/{name}.jinja"
    source = shared_data(path).read_text(encoding="utf-8")
    messages, options = CONVERSATIONS[conversation]
    options = {"add_generation_prompt": True, **options}
    expected, their_reason = text_or_error(
        lambda: hugging_face.apply_chat_template(messages, chat_template=source, tokenize=False, **options),
        jinja2.TemplateError,  # what this template refuses
        TypeError,  # what it cannot do
    )
    text, reason = text_or_error(
        lambda: ChatTemplate(source, SPECIAL_TOKENS).render(messages, **options), RequestError
    )
    assert text == expected
    assert their_reason in reason


def test_most_conversations_are_rendered_and_not_refused(shared_data):
    """The test above would pass if both sides refused everything."""
    rendered = 0
    for name in TEMPLATES[:-1]:
        template = ChatTemplate(
            shared_data(f"chat_templates/{name}.jinja").read_text(encoding="utf-8"), SPECIAL_TOKENS
        )
        for messages, options in CONVERSATIONS.values():
            try:
                rendered += bool(template.render(messages, **options))
            except RequestError:
                continue
    assert rendered >= 50
