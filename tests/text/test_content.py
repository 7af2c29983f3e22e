"""What templates read of messages' content, seen in their source, and the form that each is given."""

import jinja2
import pytest

from jinfer.errors import RequestError
from jinfer.text.chat_template import ChatTemplate
from tests.text.test_chat_template import SPECIAL_TOKENS, TEMPLATES, hugging_face, text_or_error  # noqa: F401

STRING = [{"role": "user", "content": "Make tea?"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Make"}, {"type": "text", "text": " tea?"}]}]
TUPLE = [{"role": "user", "content": tuple(PARTS[0]["content"])}]


def render(source: str, messages, **options) -> str:
    return ChatTemplate(source, {}).render(messages, **options)


READ_PARTS = {
    "loop over an "
    "attribute": "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
    "loop over an item": (
        "{% for m in messages %}{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] }}{% endfor %}"
        "{% endfor %}"
    ),
    "get": "{% for m in messages %}{% for p in m.get('content', []) %}{{ p.get('text') }}{% endfor %}{% "
    "endfor %}",
    "an alias": (
        "{% for m in messages %}{% set c = m.content %}{% for p in c %}{{ p.text }}{% endfor %}{% endfor %}"
    ),
    "messages renamed": (
        "{% set chat = messages %}{% for m in chat %}{% for p in m.content %}{{ p.text }}{% endfor %}{% "
        "endfor %}"
    ),
    "a slice": (
        "{% set chat = messages[1:] if messages[0].role == 'system' else messages %}"
        "{% for m in chat %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    ),
    "an index": "{{ messages[0].content[0].text }}{{ messages[-1]['content'][1:] | map(attribute='text') | "
    "join }}",
    "an index into messages in a loop": (
        "{% for i in range(messages | length) %}{% for p in messages[i].content %}{{ p.text }}{% endfor "
        "%}{% endfor %}"
    ),
    "first and last": (
        "{% for m in messages %}{{ (m.content | first).text }}"
        "{% if m.content | length > 1 %}{{ (m.content | last)['text'] }}{% endif %}{% endfor %}"
    ),
    "filters": (
        "{% for m in messages %}{{ m.content | selectattr('type', 'equalto', 'text') | "
        "map(attribute='text') | join }}{% endfor %}"
    ),
    "a loop over a filter": (
        "{% for m in messages | list %}{% for p in m.content | selectattr('type', 'eq', 'text') | list %}{{ "
        "p.text }}{% endfor %}{% endfor %}"
    ),
    "a macro": (
        "{% macro f(parts, x) %}{% for p in parts %}{{ p.text }}{% endfor %}{% endmacro %}"
        "{% for m in messages %}{{ f(m.content, 1) }}{% endfor %}"
    ),
    "a macro that takes the message": (
        "{% macro f(m) %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endmacro %}"
        "{% for message in messages %}{{ f(m=message) }}{% endfor %}"
    ),
    "a namespace": (
        "{% set ns = namespace(chat=messages, c=none) %}{% for m in ns.chat %}{% set ns.c = m.content %}"
        "{% for p in ns.c %}{{ p.text }}{% endfor %}{% endfor %}"
    ),
    "with": (
        "{% for m in messages %}{% with c = m.content %}{% for p in c %}{{ p.text }}{% endfor %}{% endwith %}"
        "{% endfor %}"
    ),
    "all contents": (
        "{% for c in messages | map(attribute='content') %}{% for p in c %}{{ p.text }}{% endfor %}{% "
        "endfor %}"
    ),
    "or": "{% for m in messages %}{% for p in m.content or [] %}{{ p.text }}{% endfor %}{% endfor %}",
    "iterable, tested": (
        "{% for m in messages %}{% if m.content is iterable %}{% for p in m.content %}{{ p.text }}{% endfor "
        "%}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "the system prompt as a string": (
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set chat = messages[1:] %}{% else "
        "%}"
        "{% set chat = messages %}{% endif %}"
        "{% for m in chat %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("messages", [STRING, PARTS, TUPLE], ids=["string", "parts", "tuple"])
@pytest.mark.parametrize("name", READ_PARTS)
def test_a_template_that_reads_parts_gets_parts(name, messages):
    assert render(READ_PARTS[name], messages) == "Make tea?"


READ_STRINGS = {
    "printed": "{% for m in messages %}{{ m.content }}{% endfor %}",
    "a filter": "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}",
    "a method": "{% for m in messages %}{{ m.content.strip() }}{% endfor %}",
    "added": "{% for m in messages %}{{ '' + m.content }}{% endfor %}",
    "joined": "{% for m in messages %}{{ '' ~ m.get('content') }}{% endfor %}",
    "split": "{% for m in messages %}{% for line in m.content.split('|') %}{{ line }}{% endfor %}{% endfor "
    "%}",
    "an alias": "{% for m in messages %}{% set c = m.content | trim %}{{ c[:4] }}{{ c[4:] }}{% endfor %}",
    "a string or "
    "nothing": "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% endif %}{% endfor %}",
    "other parts": (
        "{% for m in messages %}{% for t in m.tool_calls or [] %}{{ t.content }}{% endfor %}{{ m.content "
        "}}{% endfor %}"
    ),
}


@pytest.mark.parametrize("messages", [STRING, PARTS, TUPLE], ids=["string", "parts", "tuple"])
@pytest.mark.parametrize("name", READ_STRINGS)
def test_a_template_that_reads_strings_gets_a_string(name, messages):
    assert render(READ_STRINGS[name], messages) == "Make tea?"


READ_BOTH = {
    "in place": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{{ m.content | map(attribute='text') | join('+') }}{% endif %}{% endfor %}"
    ),
    "a macro": (
        "{% macro f(c) %}{% if c is not string %}{% for p in c %}{{ p.text }}+{% endfor %}{% else %}{{ c "
        "}}{% endif %}{% endmacro %}{% for m in messages %}{{ f(m.content) }}{% endfor %}"
    ),
}


@pytest.mark.parametrize("name", READ_BOTH)
def test_a_template_that_reads_both_gets_what_was_given(name):
    assert render(READ_BOTH[name], STRING) == "Make tea?"
    assert render(READ_BOTH[name], PARTS).removesuffix("+") == "Make+ tea?"


def test_each_message_gets_the_form_in_which_it_comes_out():
    source = READ_PARTS["the system prompt as a string"]
    system = {
        "role": "system",
        "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief. "}],
    }
    for first in (system, {"role": "system", "content": "Be brief. "}):
        for rest in (STRING, PARTS):
            assert render(source, [first, *rest]) == "Be brief. Make tea?"


@pytest.mark.parametrize(
    ("source", "content", "text"),
    [
        ("{{ messages[0].content | tojson }}", {"time": 12}, '{"time": 12}'),
        (
            "{% if messages[0].content is mapping %}{{ messages[0].content.time }}{% endif %}",
            {"time": 12},
            "12",
        ),
        ("{% for k, v in messages[0].content | items %}{{ k }}={{ v }}{% endfor %}", {"time": 12}, "time=12"),
        ("{{ messages[0].content | tojson }}", ["a", {"b": 1}], '["a", {"b": 1}]'),
        ("{% for p in messages[0].content %}{{ p }}{% endfor %}", ["a", "b"], "ab"),
        (
            "{% for p in messages[0].content %}{{ p.title }}{% endfor %}",
            [{"type": "document", "title": "T"}],
            "T",
        ),
        ("{% for p in messages[0].content %}{{ p.text }}{% endfor %}", [], ""),
        ("{{ messages[0].content }}", [], ""),
    ],
)
def test_content_of_other_forms_goes_to_a_template_that_reads_it(source, content, text):
    assert render(source, [{"role": "tool", "content": content}]) == text


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("{{ messages[0].content }}", {"time": 12}, r"content has the type None"),
        ("{{ messages[0].content }}", ["a"], r"content\[0\] has the type None"),
        (
            READ_PARTS["get"],
            [{"type": "text", "text": "a"}, {"type": "image"}],
            r"content\[1\] has the type 'image'",
        ),
        (READ_BOTH["in place"], [{"type": "input_audio"}], r"content\[0\] has the type 'input_audio'"),
        (READ_PARTS["get"], 3, "content is a int"),
    ],
)
def test_content_that_the_template_does_not_read_is_refused(source, content, message):
    with pytest.raises(RequestError, match=message):
        render(source, [{"role": "user", "content": content}])


@pytest.mark.oracle
@pytest.mark.parametrize("content", ["string", "parts"])
@pytest.mark.parametrize("name", [*TEMPLATES, *READ_PARTS, *READ_BOTH])
def test_parts_render_as_in_transformers_where_those_come_out(name, content, shared_data, hugging_face):  # noqa: F811
    """transformers gives a template what the caller gave, which is right where the words come out as they
    are."""
    if name in TEMPLATES:
        path = f"{name}/chat_template.jinja" if "/" in name else f"chat_templates/{name}.jinja"
        source = shared_data(path).read_text(encoding="utf-8")
    else:
        source = (READ_PARTS | READ_BOTH)[name]
    given = {"string": STRING, "parts": PARTS}
    expected, _ = text_or_error(
        lambda: hugging_face.apply_chat_template(
            given[content], chat_template=source, tokenize=False, add_generation_prompt=True
        ),
        jinja2.TemplateError,
        TypeError,
    )
    text = ChatTemplate(source, SPECIAL_TOKENS).render(given[content])
    as_string = ChatTemplate(source, SPECIAL_TOKENS).render(STRING)
    if expected is not None and "tea?" in expected and "'text':" not in expected:
        assert text == expected
    else:
        assert "Make tea?" in text
        assert text == as_string
