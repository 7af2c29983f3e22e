"""ChatTemplate by itself, and against transformers on the templates of published models."""

import datetime

import jinja2
import pytest

from jinfer.errors import RequestError, TokenizerError
from jinfer.text.chat_template import ChatTemplate

USER = [{"role": "user", "content": "Hi"}]


def render(source: str, messages=USER, special_tokens=None, **options) -> str:
    return ChatTemplate(source, special_tokens or {}).render(messages, **options)


def test_messages_special_tokens_and_the_generation_prompt_reach_the_template():
    source = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] }}{% endfor %}{{ add_generation_prompt }}"
    )
    assert render(source, special_tokens={"bos_token": "<s>"}) == "<s>[user]HiTrue"
    assert render(source, add_generation_prompt=False) == "[user]HiFalse"


def test_blocks_take_their_line_with_them():
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"


def test_variables_reach_the_template_and_win_over_special_tokens():
    source = "{{ enable_thinking }}{{ bos_token }}"
    assert render(source, special_tokens={"bos_token": "<s>"}, enable_thinking=False, bos_token="B") == "FalseB"


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
    assert render("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% if i == 3 %}{% break %}"
                  "{% endif %}{% endfor %}") == "023"  # fmt: skip


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


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b\n"}, {"type": "text", "text": "c"}]
    assert render("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "ab\nc"


def test_none_is_as_good_as_absent():
    messages = [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}], "name": None}]
    source = (
        "{{ messages[0].content is defined }} {{ messages[0].name is defined }} {{ messages[0].tool_calls | length }}"
    )
    assert render(source, messages) == "False False 1"


def test_rendering_leaves_the_callers_messages_alone():
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": None}]
    render("{{ messages[0].content }}", messages)
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": None}]


def test_messages_cannot_be_replaced_by_a_variable():
    with pytest.raises(RequestError, match="'messages' cannot be given"):
        ChatTemplate("x", {}).render(USER, messages=[])


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
    text, reason = text_or_error(lambda: ChatTemplate(source, SPECIAL_TOKENS).render(messages, **options), RequestError)
    assert text == expected
    assert their_reason in reason


def test_most_conversations_are_rendered_and_not_refused(shared_data):
    """The test above would pass if both sides refused everything."""
    rendered = 0
    for name in TEMPLATES[:-1]:
        template = ChatTemplate(shared_data(f"chat_templates/{name}.jinja").read_text(encoding="utf-8"), SPECIAL_TOKENS)
        for messages, options in CONVERSATIONS.values():
            try:
                rendered += bool(template.render(messages, **options))
            except RequestError:
                continue
    assert rendered >= 50
