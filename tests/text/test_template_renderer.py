"""Chat templates in a process with bounds: the same prompts as without, and an end for what has none."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import jinfer
from jinfer.errors import JinferError, RequestError, TokenizerError
from jinfer.text.limited_process.limits import ProcessLimits
from jinfer.text.template_renderer import TemplateLimits, TemplateRenderer
from jinfer.text.tokenizer import Tokenizer

DEMO_MODEL = Path(jinfer.__file__).parent / "demo_model"
LIMITS = TemplateLimits(
    process=ProcessLimits(cpu_s=0.5, num_bytes=256 << 20, stack_bytes=8 << 20), max_characters=10_000
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{{ tools | tojson }}{{ documents | tojson }}{{ thinking }}"
    "{% if add_generation_prompt %}answer:{% endif %}"
    "{% if messages[0].content == 'refuse me' %}{{ raise_exception('as you wish') }}{% endif %}"
    "{% if messages[0].content == 'fail' %}{{ 1 + 'a' }}{% endif %}"
)
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROW = "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def say(text: object) -> list[dict]:
    return [{"role": "user", "content": text}]


def tokenizer_with(directory: Path, template: str) -> Tokenizer:
    shutil.copytree(DEMO_MODEL, directory, dirs_exist_ok=True)
    (directory / "chat_template.jinja").write_text(template)
    return Tokenizer.from_directory(directory)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return tokenizer_with(tmp_path_factory.mktemp("plain"), TEMPLATE)


@pytest.fixture(scope="module")
def renderer(tokenizer: Tokenizer) -> Iterator[TemplateRenderer]:
    renderer = TemplateRenderer(tokenizer, LIMITS)
    yield renderer
    renderer.close()


CONVERSATIONS = {
    "one message": (say("hello"), {}),
    "characters": (say("é 字 🎈 \x00 \u2028 \n\r"), {}),
    "a lone surrogate": (say("\ud800"), {}),
    "parts": (say([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), {}),
    "tools and documents": (say("a"), {"tools": [TOOL], "documents": [{"title": "t", "text": "x"}]}),
    "variables": (say("a"), {"thinking": {"a": [1, 1e308, float("inf"), None, True]}}),
    "no opening": (say("a"), {"add_generation_prompt": False}),
    "a continued message": (say("and then"), {"continue_final_message": True}),
    "no messages": ([], {}),
    "a message without a role": ([{"content": "a"}], {}),
    "a refusal": (say("refuse me"), {}),
    "a failure": (say("fail"), {}),
    "a name that is taken": (say("a"), {"messages": []}),
    "names of parameters": (say("a"), {"self": 1, "limits": 2}),
    "an option of transformers": (say("a"), {"tokenize": False}),
}


def outcome(render, conversation) -> object:
    messages, options = conversation
    try:
        return render(messages, **options)
    except JinferError as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_is_rendered_as_without_a_process(tokenizer, renderer, name):
    conversation = CONVERSATIONS[name]
    assert outcome(renderer.token_ids, conversation) == outcome(tokenizer.apply_chat_template, conversation)


HOSTILE = {
    "loops within loops": (LOOP, RequestError, r"takes more than 0\.5 s of CPU with these messages"),
    "a number without end": ("{{ 7 ** (10 ** 9) }}", RequestError, r"takes more than 0\.5 s of CPU"),
    "a text that doubles": (GROW, RequestError, r"takes more than 256 MiB of memory"),
    "a list that doubles": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        RequestError,
        r"takes more than 256 MiB of memory",
    ),
    "a long prompt": ("{{ 'a' * 10001 }}", RequestError, r"makes 10001 characters .* at most 10000 may be"),
    "brackets": (f"{{{{ {'(' * 20000}1{')' * 20000} }}}}", TokenizerError, "cannot be compiled"),
    "a macro of itself": (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        RequestError,
        "the chat template failed",
    ),
    "a way out": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", RequestError, "failed"),
    "no Jinja": ("{% for %}", TokenizerError, "is not valid Jinja"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_the_request_s_error_again_and_again(tmp_path, name):
    template, kind, match = HOSTILE[name]
    source = "{% if messages[0].content == 'hello' %}hello{% else %}" + template + "{% endif %}"
    is_compiled = kind is RequestError and name != "a number without end"
    renderer = TemplateRenderer(tokenizer_with(tmp_path, source), LIMITS)
    for _ in range(2):
        with pytest.raises(kind, match=match):
            renderer.token_ids(say("bomb"))
    if is_compiled:  # the process is there for the next conversation
        assert renderer.token_ids(say("hello"))
    renderer.close()


def test_a_process_that_was_killed_is_started_again(tokenizer):
    renderer = TemplateRenderer(tokenizer, LIMITS)
    expected = renderer.token_ids(say("hello"))
    process = renderer._process.start()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert renderer.token_ids(say("hello")) == expected
    renderer.close()


def test_the_process_ends_with_its_renderer(tokenizer):
    renderer = TemplateRenderer(tokenizer, LIMITS)
    renderer.token_ids(say("hello"))
    process = renderer._process.start()
    del renderer
    assert process.poll() is not None


def test_a_model_without_a_template_is_told_so():
    with pytest.raises(TokenizerError, match="no chat template"):
        TemplateRenderer(Tokenizer.from_directory(DEMO_MODEL)).token_ids(say("hello"))
